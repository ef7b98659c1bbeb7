"""Prediction: what the other policies may know of output lengths. One file each."""

from policies.prediction.base import Prediction
from policies.prediction.history import History
from policies.prediction.max_tokens import MaxTokens
from policies.prediction.noisy_oracle import NoisyOracle
from policies.prediction.oracle import Oracle
from policies.prediction.ranks import Ranks

__all__ = ["History", "MaxTokens", "NoisyOracle", "Oracle", "Prediction", "Ranks"]

"""The truth, with an error."""

from __future__ import annotations

import math
from statistics import NormalDist

from policies.errors import PolicyError
from policies.hashing import uniform
from policies.prediction.base import Prediction
from policies.prediction.oracle import Oracle
from policies.views import SequenceView


class NoisyOracle(Prediction):
    """The truth times a lognormal error with median 1, the same for a request in every run.

    Args:
        sigma: Standard deviation of the logarithm of the error.
        seed: Another seed, another error.
    """

    def __init__(self, sigma: float = 0.5, seed: int = 0) -> None:
        if sigma < 0:
            raise PolicyError(f"policy.prediction.sigma={sigma}: a standard deviation is not negative")
        self._sigma, self._seed = sigma, seed
        self._truth = Oracle()
        self._normal = NormalDist()

    def output_tokens(self, sequence: SequenceView) -> int:
        quantile = max(uniform(self._seed, sequence.request_id), 2.0**-53)
        error = math.exp(self._sigma * self._normal.inv_cdf(quantile))
        return min(max(round(self._truth.output_tokens(sequence) * error), 1), sequence.max_tokens)

"""Nothing is known."""

from __future__ import annotations

from policies.prediction.base import Prediction
from policies.views import SequenceView


class MaxTokens(Prediction):
    """Knows nothing: every sequence runs to its ``max_tokens``."""

    def output_tokens(self, sequence: SequenceView) -> int:
        return sequence.max_tokens

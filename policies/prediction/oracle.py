"""Everything is known."""

from __future__ import annotations

from policies.prediction.base import Prediction
from policies.views import SequenceView


class Oracle(Prediction):
    """Knows the true length where a replay foretells it, else ``max_tokens``."""

    def output_tokens(self, sequence: SequenceView) -> int:
        return sequence.max_tokens if sequence.foretold_tokens is None else sequence.foretold_tokens

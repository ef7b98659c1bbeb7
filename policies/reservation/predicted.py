"""Room for the output that is expected."""

from __future__ import annotations

from policies.reservation.base import Reservation
from policies.views import SequenceView


class Predicted(Reservation):
    """Room for the output that the prediction policy expects."""

    def tokens(self, sequence: SequenceView) -> int:
        expected = sequence.prompt_tokens + min(sequence.predicted_tokens, sequence.max_tokens)
        return max(expected, sequence.total)

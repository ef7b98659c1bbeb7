"""No room but for what is at hand."""

from __future__ import annotations

from policies.reservation.base import Reservation
from policies.views import SequenceView


class NoReservation(Reservation):
    """Room for the tokens at hand alone: admit while it fits, preempt when it does not (vLLM)."""

    def tokens(self, sequence: SequenceView) -> int:
        return sequence.computed

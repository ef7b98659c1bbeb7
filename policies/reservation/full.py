"""Room for the longest that every sequence may become."""

from __future__ import annotations

from policies.reservation.base import Reservation
from policies.views import SequenceView


class Full(Reservation):
    """Room for every sequence's ``max_tokens``: nothing is ever preempted (mini-sglang)."""

    def tokens(self, sequence: SequenceView) -> int:
        return sequence.prompt_tokens + sequence.max_tokens

"""Least attained service."""

from __future__ import annotations

from policies.order.base import Order
from policies.recent import SESSIONS, Recent
from policies.views import SequenceView


class Las(Order):
    """Least attained service first, of the whole session (PLAS of Autellix: Luo et al., 2025, arXiv 2502.13965).

    Nothing is known of lengths; a session that took little so far is bet to need little more. Service is counted in
    tokens computed. A sequence of no session has its own output alone. As published it also interrupts whoever runs:
    here it says who is admitted, and ``policy/preemption=most_served`` who makes room when KV runs out. While new
    sessions keep the server busy, old ones wait.
    """

    def __init__(self) -> None:
        self._served = Recent[int](SESSIONS)  # tokens
        self._found: dict[int, int] = {}  # by ordinal, of those who run: tokens that were there when they were admitted

    def key(self, sequence: SequenceView) -> float:
        if sequence.session_id < 0:
            return sequence.total - sequence.prompt_tokens
        return self._served.get(sequence.session_id, 0)

    def admitted(self, sequence: SequenceView) -> None:
        self._found[sequence.ordinal] = sequence.cached

    def left(self, sequence: SequenceView) -> None:
        found = self._found.pop(sequence.ordinal, None)
        if found is not None and sequence.session_id >= 0:
            computed = sequence.computed - found
            self._served[sequence.session_id] = self._served.get(sequence.session_id, 0) + computed

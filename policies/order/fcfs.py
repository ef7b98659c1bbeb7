"""First come, first served."""

from __future__ import annotations

from policies.order.base import Order
from policies.views import SequenceView


class Fcfs(Order):
    """First come, first served. A preempted sequence keeps its place: it came early."""

    def key(self, sequence: SequenceView) -> float:
        return sequence.ordinal

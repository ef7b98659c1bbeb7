"""The most urgent first."""

from __future__ import annotations

from policies.errors import PolicyError
from policies.order.base import Order
from policies.views import SequenceView


class Priority(Order):
    """The most urgent first, first come first served among equals; with ageing, no one waits for ever.

    Ageing raises everyone's priority at one pace, so ranks among those that wait never change.

    Args:
        ageing_s: Seconds of waiting that are worth one level of priority; 0 for no ageing.

    Raises:
        PolicyError: It is negative.
    """

    def __init__(self, ageing_s: float = 0.0) -> None:
        if not ageing_s >= 0:
            raise PolicyError(f"policy.order.ageing_s={ageing_s}: seconds for a level of priority, 0 for no ageing")
        self._levels_per_s = 1 / ageing_s if ageing_s else 0.0

    def key(self, sequence: SequenceView) -> float:
        return sequence.queued_s * self._levels_per_s - sequence.priority

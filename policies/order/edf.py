"""Earliest deadline first."""

from __future__ import annotations

import math

from policies.order.base import Order
from policies.views import SequenceView


class Edf(Order):
    """Earliest deadline first (Liu and Layland, JACM 1973); those without a deadline come after all others.

    It meets every deadline where that is possible at all, and few under overload: late ones are still served first.
    """

    def key(self, sequence: SequenceView) -> float:
        return math.inf if math.isnan(sequence.deadline_s) else sequence.deadline_s

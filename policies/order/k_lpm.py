"""Longest prefix matches, and first comers between them."""

from __future__ import annotations

from collections.abc import Sequence

from policies.errors import PolicyError
from policies.order.base import PrefixOrder
from policies.views import SchedulerView, SequenceView


class KLpm(PrefixOrder):
    """k times the longest prefix match, then once the first come, and again (Dexter et al., NeurIPS 2025).

    The longest match alone may leave a sequence waiting for ever; here everyone is admitted after ``k + 1`` times as
    many others as came before it.

    Args:
        k: Longest matches between two first comers; 0 is first come first served.
        limit: As for ``lpm``.

    Raises:
        PolicyError: ``k`` is negative.
    """

    def __init__(self, k: int = 3, limit: int = 128) -> None:
        super().__init__(limit)
        if k < 0:
            raise PolicyError(f"policy.order.k={k}: how many longest matches between two first comers, e.g. 3")
        self._k = k
        self._turn = 0  # longest matches admitted since the last first comer

    def admitted(self, sequence: SequenceView) -> None:
        del sequence
        self._turn = (self._turn + 1) % (self._k + 1)

    def by_prefix(self, waiting: Sequence[SequenceView], scheduler: SchedulerView) -> list[SequenceView]:
        matches = sorted(waiting, key=lambda s: (-scheduler.cached_prefix(s), s.ordinal))[::-1]
        comers = list(waiting)[::-1]
        turn, taken = self._turn, set[int]()
        arranged: list[SequenceView] = []
        while len(arranged) < len(waiting):
            queue = matches if turn < self._k else comers
            sequence = queue.pop()
            if sequence.ordinal not in taken:
                taken.add(sequence.ordinal)
                arranged.append(sequence)
                turn = (turn + 1) % (self._k + 1)
        return arranged

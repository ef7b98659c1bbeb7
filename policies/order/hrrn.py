"""Highest response ratio next."""

from __future__ import annotations

import math
from collections.abc import Sequence

from policies.order.base import PrefixOrder
from policies.order.sharing import waits_for_another
from policies.views import SchedulerView, SequenceView


class Hrrn(PrefixOrder):
    """Highest response ratio next (Brinch Hansen 1971): waiting over work, on a clock of tokens as in SGLang.

    The work is the prefill that the prefix cache does not save. Waiting is counted in tokens that the server has
    prefilled for others meanwhile, which at a constant speed is time. Short prefills go first, and long ones rise as
    they wait; under a lasting overload they may still wait for ever. A preempted sequence comes first: its waiting was
    over.

    Args:
        limit: As for ``lpm``.
        shared_tokens: As for ``lpm``.
    """

    def __init__(self, limit: int = 128, shared_tokens: int = 32) -> None:
        super().__init__(limit)
        self._shared_tokens = shared_tokens
        self._prefilled = 0  # tokens
        self._came: dict[int, int] = {}  # the same when a sequence was queued, by ordinal

    def queued(self, sequence: SequenceView) -> None:
        self._came[sequence.ordinal] = self._prefilled

    def admitted(self, sequence: SequenceView) -> None:
        del self._came[sequence.ordinal]
        self._prefilled += sequence.total - sequence.cached

    def left(self, sequence: SequenceView) -> None:
        self._came.pop(sequence.ordinal, None)

    def by_prefix(self, waiting: Sequence[SequenceView], scheduler: SchedulerView) -> list[SequenceView]:
        cached = {sequence.ordinal: scheduler.cached_prefix(sequence) for sequence in waiting}
        put_off = waits_for_another(waiting, cached, self._shared_tokens)

        def rank(sequence: SequenceView) -> tuple[bool, float]:
            if sequence.preemptions:
                return False, -math.inf
            waited = self._prefilled - self._came[sequence.ordinal]
            return sequence.ordinal in put_off, -waited / (sequence.total - cached[sequence.ordinal])

        return sorted(waiting, key=rank)

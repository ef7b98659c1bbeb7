"""Shortest prefill first."""

from __future__ import annotations

from collections.abc import Sequence

from policies.order.base import PrefixOrder
from policies.order.sharing import waits_for_another
from policies.views import SchedulerView, SequenceView


class ShortestPrefillFirst(PrefixOrder):
    """The fewest tokens to compute first, given what is cached now (SGLang; PrefillOnly: Du et al., SOSP 2025).

    Long prompts starve while short ones keep coming: ``hrrn`` weighs the two.

    Args:
        limit: As for ``lpm``; SGLang has none here.
        shared_tokens: As for ``lpm``.
    """

    def __init__(self, limit: int = 128, shared_tokens: int = 32) -> None:
        super().__init__(limit)
        self._shared_tokens = shared_tokens

    def by_prefix(self, waiting: Sequence[SequenceView], scheduler: SchedulerView) -> list[SequenceView]:
        cached = {sequence.ordinal: scheduler.cached_prefix(sequence) for sequence in waiting}
        put_off = waits_for_another(waiting, cached, self._shared_tokens)
        return sorted(waiting, key=lambda s: (s.ordinal in put_off, s.total - cached[s.ordinal]))

"""Longest prefix match."""

from __future__ import annotations

from collections.abc import Sequence

from policies.order.base import PrefixOrder
from policies.order.sharing import waits_for_another
from policies.views import SchedulerView, SequenceView


class Lpm(PrefixOrder):
    """Longest prefix match first (SGLang: Zheng et al., NeurIPS 2024, section 3).

    Sequences that begin like one before them, and find little in the cache, come last: they wait for its prefix.

    Args:
        limit: With more sequences waiting the order falls back to first come first served, as SGLang's does: matching
            every one of them at each step would cost more than it gains. 0 for no limit.
        shared_tokens: SGLang's thresholds of in-batch prefix caching, tokens; 0 for no such rule.
    """

    def __init__(self, limit: int = 128, shared_tokens: int = 32) -> None:
        super().__init__(limit)
        self._shared_tokens = shared_tokens

    def by_prefix(self, waiting: Sequence[SequenceView], scheduler: SchedulerView) -> list[SequenceView]:
        cached = {sequence.ordinal: scheduler.cached_prefix(sequence) for sequence in waiting}
        put_off = waits_for_another(waiting, cached, self._shared_tokens)
        return sorted(waiting, key=lambda s: (s.ordinal in put_off, 0 if s.ordinal in put_off else -cached[s.ordinal]))

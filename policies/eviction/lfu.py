"""Least frequently used."""

from __future__ import annotations

from policies.eviction.base import LeafHeap
from policies.views import CacheNode


class Lfu(LeafHeap):
    """The leaf that the fewest requests used, the oldest among those.

    Counts never age: what was popular once stays.
    """

    def priority(self, node: CacheNode) -> float:
        return node.hits

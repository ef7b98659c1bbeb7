"""First in, first out."""

from __future__ import annotations

from policies.eviction.base import LeafHeap
from policies.views import CacheNode


class Fifo(LeafHeap):
    """The leaf whose tokens entered the cache first, whatever was used since."""

    def priority(self, node: CacheNode) -> float:
        return node.inserted

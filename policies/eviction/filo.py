"""First in, last out."""

from __future__ import annotations

from policies.eviction.base import LeafHeap, Rank
from policies.views import CacheNode


class Filo(LeafHeap):
    """The leaf whose tokens entered the cache last (SGLang's filo): what came first stays for ever."""

    def priority(self, node: CacheNode) -> Rank:
        return -node.inserted

"""Segmented LRU."""

from __future__ import annotations

from policies.eviction.queues import Place, QueuedEviction
from policies.views import CacheNode


class Slru(QueuedEviction):
    """Two segments, the probationary one goes first, least recently used within each (SGLang's slru).

    After Karedla, Love and Wherry (IEEE Computer 1994), but the protected segment has no bound, as in SGLang: nothing
    ages, so what was hit twice stays for ever as long as anything else can go.

    Args:
        protect_after: Uses that bring a node into the protected segment, the first one included.
    """

    def __init__(self, protect_after: int = 2) -> None:
        super().__init__(queues=2)
        self._protect_after = protect_after

    def put(self, node: CacheNode, place: Place) -> None:
        place.queue = int(node.hits >= self._protect_after)
        place.rank = self.clock

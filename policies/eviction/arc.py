"""Adaptive replacement cache."""

from __future__ import annotations

from policies.eviction.ghosts import Ghosts, prefix_key
from policies.eviction.queues import Place, QueuedEviction
from policies.views import CacheNode

ONCE, AGAIN = range(2)


class Arc(QueuedEviction):
    """LRU lists of what was used once and of what was used again; evicted names move the border between them.

    Megiddo and Modha, FAST 2003. The paper adapts before it evicts; here pages are freed before the tree knows what
    will fill them, so the border moves when the new node is first released, one eviction later.
    """

    def __init__(self) -> None:
        super().__init__(queues=2)
        self._target = 0.0  # pages of the first list
        self._capacity = 0  # the most evictable pages seen
        self._ghosts = (Ghosts(), Ghosts())

    def put(self, node: CacheNode, place: Place) -> None:
        place.rank = self.clock
        place.queue = AGAIN if node.hits > 1 else ONCE
        if not place.hits:
            self._adapt(node, place)

    def choose(self) -> CacheNode | None:
        self._capacity = max(self._capacity, sum(self.sizes))
        first = ONCE if self.sizes[ONCE] > self._target else AGAIN
        return self.leaf(first) or self.leaf(1 - first)

    def gone(self, node: CacheNode, place: Place) -> None:
        once, again = self._ghosts
        self._ghosts[place.queue].add(prefix_key(node), place.whole)
        once.trim(max(self._capacity - self.sizes[ONCE], 0))
        again.trim(max(2 * self._capacity - sum(self.sizes) - once.pages, 0))

    def _adapt(self, node: CacheNode, place: Place) -> None:
        """Move the border if the node was evicted lately, towards the list that it was missed in."""
        key = prefix_key(node)
        once, again = self._ghosts
        sizes = max(once.pages, 1), max(again.pages, 1)
        if once.pop(key):
            self._target = min(self._target + max(1.0, sizes[AGAIN] / sizes[ONCE]) * node.pages, self._capacity)
            place.queue = AGAIN
        elif again.pop(key):
            self._target = max(self._target - max(1.0, sizes[ONCE] / sizes[AGAIN]) * node.pages, 0.0)
            place.queue = AGAIN

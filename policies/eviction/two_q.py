"""2Q."""

from __future__ import annotations

from policies.eviction.ghosts import Ghosts, prefix_key
from policies.eviction.queues import Place, QueuedEviction
from policies.views import CacheNode

IN, MAIN = range(2)


class TwoQ(QueuedEviction):
    """A FIFO queue for what is new, LRU for what came back after it had left that queue.

    Johnson and Shasha, VLDB 1994. Uses while in the first queue do not count: they are taken for one burst.

    Args:
        in_share: Share of the cache that the first queue may keep (Kin).
        ghost_share: Size of the cache whose worth of evicted nodes is remembered, as a share of this one (Kout).
    """

    def __init__(self, in_share: float = 0.25, ghost_share: float = 0.5) -> None:
        super().__init__(queues=2)
        self._in_share, self._ghost_share = in_share, ghost_share
        self._ghosts = Ghosts()

    def put(self, node: CacheNode, place: Place) -> None:
        if not place.hits:
            place.queue = MAIN if self._ghosts.pop(prefix_key(node)) else IN
        elif place.queue == IN:
            return
        place.rank = self.clock

    def choose(self) -> CacheNode | None:
        first = IN if self.sizes[IN] > self._in_share * sum(self.sizes) else MAIN
        return self.leaf(first) or self.leaf(1 - first)

    def gone(self, node: CacheNode, place: Place) -> None:
        if place.queue == IN:
            self._ghosts.add(prefix_key(node), place.whole)
            self._ghosts.trim(self._ghost_share * (sum(self.sizes) + place.whole))

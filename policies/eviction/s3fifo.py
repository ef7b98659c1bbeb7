"""S3-FIFO."""

from __future__ import annotations

from policies.eviction.ghosts import Ghosts, prefix_key
from policies.eviction.queues import Place, QueuedEviction
from policies.views import CacheNode

SMALL, MAIN = range(2)
MOST_USES = 3  # that are counted


class S3Fifo(QueuedEviction):
    """Three FIFO queues: a small one that sheds one-hit wonders, a main one with second chances, and ghosts.

    Yang, Zhang, Qiu, Yue and Vigfusson, SOSP 2023.

    Args:
        small_share: Share of the cache for the small queue.
        ghost_share: Size of the cache whose worth of evicted nodes is remembered, as a share of this one.
        promote_after: Uses after its first that take a node from the small queue to the main one.
    """

    def __init__(self, small_share: float = 0.1, ghost_share: float = 0.9, promote_after: int = 2) -> None:
        super().__init__(queues=2)
        self._small_share, self._ghost_share, self._promote_after = small_share, ghost_share, promote_after
        self._ghosts = Ghosts()
        self._uses: dict[int, int] = {}  # by serial

    def put(self, node: CacheNode, place: Place) -> None:
        uses = node.hits - place.hits
        if not place.hits:
            place.queue = MAIN if self._ghosts.pop(prefix_key(node)) else SMALL
            place.rank = self.clock
            uses -= 1
        self._uses[node.serial] = min(self._uses.get(node.serial, 0) + uses, MOST_USES)

    def choose(self) -> CacheNode | None:
        while True:
            first = SMALL if self.sizes[SMALL] >= self._small_share * sum(self.sizes) else MAIN
            leaf = self.leaf(first) or self.leaf(1 - first)
            if leaf is None:
                return None
            uses = self._uses[leaf.serial]
            if self.place(leaf).queue == SMALL:
                if uses < self._promote_after:
                    return leaf
                self._uses[leaf.serial] = 0
            elif uses:
                self._uses[leaf.serial] = uses - 1
            else:
                return leaf
            self.clock += 1
            self.move(leaf, MAIN, self.clock)

    def gone(self, node: CacheNode, place: Place) -> None:
        del self._uses[node.serial]
        if place.queue == SMALL:
            self._ghosts.add(prefix_key(node), place.whole)
            self._ghosts.trim(self._ghost_share * (sum(self.sizes) + place.whole))

    def split(self, upper: CacheNode, lower: CacheNode) -> None:
        super().split(upper, lower)
        if lower.serial in self._uses:
            self._uses.setdefault(upper.serial, self._uses[lower.serial])

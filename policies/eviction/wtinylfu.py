"""W-TinyLFU."""

from __future__ import annotations

from policies.eviction.ghosts import prefix_key
from policies.eviction.queues import Place, QueuedEviction
from policies.views import CacheNode

WINDOW, PROBATION, PROTECTED = range(3)
UNKNOWN = b""


class WTinyLfu(QueuedEviction):
    """A small LRU window for what is new; from there only what is used more often than what it would displace goes on.

    Einziger, Friedman and Manes, ACM Transactions on Storage 2017, as in Caffeine: the main part is a segmented LRU.
    Frequencies are of names, so they outlive an eviction; they are counted exactly instead of in a sketch, and halved
    every so many uses.

    Args:
        window_share: Share of the cache for the window.
        protected_share: Share of the main part for what was used there again.
        reset_after: Uses between two halvings, as a multiple of the nodes cached at the time.
    """

    def __init__(self, window_share: float = 0.01, protected_share: float = 0.8, reset_after: int = 10) -> None:
        super().__init__(queues=3)
        self._window_share, self._protected_share, self._reset_after = window_share, protected_share, reset_after
        self._keys: dict[int, bytes] = {}  # names of cached nodes by serial
        self._counts: dict[bytes, int] = {}  # uses by name
        self._uses = 0

    def put(self, node: CacheNode, place: Place) -> None:
        place.rank = self.clock
        if not place.hits:
            place.queue = WINDOW
            self._keys[node.serial] = prefix_key(node)
        elif place.queue == PROBATION:
            place.queue = PROTECTED
        self._count(node, node.hits - place.hits)

    def choose(self) -> CacheNode | None:
        self._demote()
        if not self.sizes[PROBATION] + self.sizes[PROTECTED]:
            self._fill()
        oldest = self.leaf(PROBATION) or self.leaf(PROTECTED)
        newcomer = self.leaf(WINDOW)
        if oldest is None or newcomer is None:
            return oldest or newcomer
        if self.sizes[WINDOW] <= self._window_share * sum(self.sizes):
            return oldest
        if self._frequency(newcomer) <= self._frequency(oldest):
            return newcomer
        self.clock += 1
        self.move(newcomer, PROBATION, self.clock)
        return oldest

    def gone(self, node: CacheNode, place: Place) -> None:
        del place
        del self._keys[node.serial]

    def split(self, upper: CacheNode, lower: CacheNode) -> None:
        super().split(upper, lower)
        key = self._keys.get(lower.serial, UNKNOWN)
        if key != UNKNOWN and upper.serial not in self._keys:
            self._keys[upper.serial] = key
            self._keys[lower.serial] = below = prefix_key(lower)
            self._counts[below] = self._counts.get(key, 0)

    def _fill(self) -> None:
        """The cache is full for the first time: nothing to contend with yet."""
        while self.sizes[WINDOW] > self._window_share * sum(self.sizes):
            leaf = self.leaf(WINDOW)
            if leaf is None:
                return
            self.clock += 1
            self.move(leaf, PROBATION, self.clock)

    def _demote(self) -> None:
        """Keep the protected segment within its share."""
        while self.sizes[PROTECTED] > self._protected_share * (self.sizes[PROBATION] + self.sizes[PROTECTED]):
            leaf = self.leaf(PROTECTED)
            if leaf is None:
                return
            self.clock += 1
            self.move(leaf, PROBATION, self.clock)

    def _count(self, node: CacheNode, uses: int) -> None:
        key = self._keys[node.serial]
        self._counts[key] = self._counts.get(key, 0) + uses
        self._uses += uses
        if self._uses > self._reset_after * len(self._keys):
            self._counts = {key: count // 2 for key, count in self._counts.items() if count > 1}
            self._uses = 0

    def _frequency(self, node: CacheNode) -> int:
        return self._counts.get(self._keys[node.serial], 0)

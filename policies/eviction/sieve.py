"""SIEVE."""

from __future__ import annotations

from policies.eviction.queues import Place, QueuedEviction
from policies.views import CacheNode


class Sieve(QueuedEviction):
    """One FIFO queue and a hand that walks from old to new: who was used since it last came by is spared once.

    Zhang, Yang, Yue, Vigfusson and Rashmi, NSDI 2024. Here the two queues are what lies ahead of the hand and what
    lies behind it; the hand passes inner nodes by.

    Requests bring whole paths, so that the hand may keep to the newest leaves and never come round: then what was hit
    twice stays for ever.
    """

    def __init__(self) -> None:
        super().__init__(queues=2)
        self._hand = 0  # the rank of who it passed last
        self._ahead = 0  # which queue
        self._visited: set[int] = set()  # serials

    def put(self, node: CacheNode, place: Place) -> None:
        if not place.hits:
            place.queue, place.rank = self._ahead, self.clock
        if node.hits > 1:
            self._visited.add(node.serial)

    def offer(self, node: CacheNode, place: Place) -> None:
        self.move(node, self._ahead if place.rank > self._hand else 1 - self._ahead, place.rank)

    def choose(self) -> CacheNode | None:
        while True:
            leaf = self.leaf(self._ahead)
            if leaf is None:
                if self.leaf(1 - self._ahead) is None:
                    return None
                self._turn()
                continue
            if leaf.serial not in self._visited:
                return leaf
            self._visited.discard(leaf.serial)
            self._hand = self.place(leaf).rank
            self.move(leaf, 1 - self._ahead, self._hand)

    def gone(self, node: CacheNode, place: Place) -> None:
        self._visited.discard(node.serial)
        self._hand = place.rank
        if self.leaf(self._ahead) is None:  # it was the newest: what comes next is not the hand's to see before a round
            self._turn()

    def _turn(self) -> None:
        self._ahead, self._hand = 1 - self._ahead, 0

    def split(self, upper: CacheNode, lower: CacheNode) -> None:
        super().split(upper, lower)
        if lower.serial in self._visited:
            self._visited.add(upper.serial)

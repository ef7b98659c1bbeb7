"""Eviction: which cached leaf of the prefix tree goes when pages are needed."""

from __future__ import annotations

import heapq
from abc import ABC, abstractmethod

from policies.views import CacheNode


class Eviction(ABC):
    """Keeps track of the nodes that no running sequence reads and names the next to go.

    The tree reports every change. A path is released tail first, so that a leaf is always reported before its parent;
    the tree cuts pages off the tail of the victim, and asks again once it is gone.
    """

    @abstractmethod
    def released(self, node: CacheNode) -> None:
        """No running sequence reads the node any more."""

    @abstractmethod
    def pinned(self, node: CacheNode) -> None:
        """A running sequence reads the node now; it was released before, unless it is new."""

    @abstractmethod
    def removed(self, node: CacheNode) -> None:
        """The node (a victim) is gone from the tree; ``node.parent`` still names its parent."""

    @abstractmethod
    def victim(self) -> CacheNode:
        """The released leaf to go next. Asked only when there is one; asking twice changes nothing."""


class LeafHeap(Eviction):
    """Evicts the released leaf of the smallest :meth:`priority`: what most policies need to say is one line."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int]] = []  # priority, serial
        self._leaves: dict[int, tuple[float, CacheNode]] = {}  # serial -> its one valid entry

    @abstractmethod
    def priority(self, node: CacheNode) -> float:
        """Rank among leaves, smallest goes first; asked when the leaf becomes evictable."""

    def released(self, node: CacheNode) -> None:
        if node.is_leaf:
            self._push(node)

    def pinned(self, node: CacheNode) -> None:
        self._leaves.pop(node.serial, None)

    def removed(self, node: CacheNode) -> None:
        del self._leaves[node.serial]
        parent = node.parent
        if parent is not None and parent.parent is not None and parent.is_leaf and not parent.locks:
            self._push(parent)

    def victim(self) -> CacheNode:
        while True:
            priority, serial = self._heap[0]
            entry = self._leaves.get(serial)
            if entry is not None and entry[0] == priority:
                return entry[1]
            heapq.heappop(self._heap)  # an entry of a leaf that was pinned or removed since

    def _push(self, node: CacheNode) -> None:
        priority = self.priority(node)
        self._leaves[node.serial] = (priority, node)
        heapq.heappush(self._heap, (priority, node.serial))

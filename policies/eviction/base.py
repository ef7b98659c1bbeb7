"""Eviction: which cached leaf of the prefix tree goes when pages are needed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TypeAlias

from policies.lazy_heap import LazyHeap
from policies.views import CacheNode, RequestView

Rank: TypeAlias = float | tuple[float, ...]


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

    def used(self, node: CacheNode, request: RequestView) -> None:
        """A request reads the node from now on, which it found (it is pinned) or brought (it was never released).

        For policies to which it matters who uses a path. A path is told in pieces: what was found from its end to its
        front, then what the request brings, as it is computed.
        """

    def split(self, upper: CacheNode, lower: CacheNode) -> None:
        """A node was cut in two: ``upper`` is new and holds its front, ``lower`` is the old one with the rest.

        For policies that remember more of a node than the node itself says.
        """

    def tick(self, now_s: float) -> None:
        """What time it is, seconds, before a step is planned. For ranks that hang on when a node was used.

        Decode steps that the simulator runs as one tell it once: the victims themselves must not hang on it.
        """


class LeafHeap(Eviction):
    """Evicts the released leaf of the smallest :meth:`priority`: what most policies need to say is one line."""

    def __init__(self) -> None:
        self._leaves = LazyHeap[CacheNode]()

    @abstractmethod
    def priority(self, node: CacheNode) -> Rank:
        """Rank among leaves, smallest goes first; asked when the leaf becomes evictable."""

    def released(self, node: CacheNode) -> None:
        if node.is_leaf:
            self._leaves.push(node.serial, self.priority(node), node)

    def pinned(self, node: CacheNode) -> None:
        self._leaves.discard(node.serial)

    def removed(self, node: CacheNode) -> None:
        self._leaves.discard(node.serial)
        parent = node.parent
        if parent is not None and parent.parent is not None and parent.is_leaf and not parent.locks:
            self._leaves.push(parent.serial, self.priority(parent), parent)

    def victim(self) -> CacheNode:
        leaf = self._leaves.first()
        if leaf is None:
            raise LookupError("an eviction policy was asked for a victim, and no leaf is released")
        return leaf

"""What policies with queues have in common: every node stands in a queue, and leaves leave it in order of rank."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import Any

from policies.eviction.base import Eviction, Rank
from policies.lazy_heap import LazyHeap
from policies.views import CacheNode


@dataclass(slots=True)
class Place:
    """Where a node stands.

    Attributes:
        hits: The node's uses when it was last released, 0 before it ever was.
        queue: Which queue.
        rank: A number or a tuple of them, the smallest goes first; one policy uses one kind.
        pages: What it adds to the queue's size, 0 while a running sequence reads it.
        whole: Pages when it was last released, before any were cut off.
    """

    hits: int = 0
    queue: int = 0
    rank: Any = 0.0
    pages: int = 0
    whole: int = 0


class QueuedEviction(Eviction):
    """Gives every node a queue and a rank when it is released, and asks which queue's first leaf goes.

    An inner node keeps its place until its children are gone. Sizes count what is evictable; a policy that wants a
    share of the cache takes it of their sum, since a policy is not told the capacity.

    Args:
        queues: How many.
    """

    def __init__(self, queues: int = 1) -> None:
        self.sizes = [0] * queues  # pages in each
        self.clock = 0  # releases so far
        self._queues = [LazyHeap[CacheNode]() for _ in range(queues)]
        self._places: dict[int, Place] = {}  # by serial
        self._named: CacheNode | None = None  # the victim, until something else happens

    @abstractmethod
    def put(self, node: CacheNode, place: Place) -> None:
        """A node is released after ``node.hits - place.hits`` uses: say where it stands from now on.

        ``place.hits`` is 0 where it is released for the first time.
        """

    def gone(self, node: CacheNode, place: Place) -> None:
        """A node was evicted."""

    def choose(self) -> CacheNode | None:
        """The leaf to go next: here the first leaf of the first queue that has one."""
        for queue in self._queues:
            leaf = queue.first()
            if leaf is not None:
                return leaf
        return None

    def leaf(self, queue: int) -> CacheNode | None:
        """The first leaf of a queue."""
        return self._queues[queue].first()

    def place(self, node: CacheNode) -> Place:
        """Where a released node stands."""
        return self._places[node.serial]

    def move(self, node: CacheNode, queue: int, rank: Rank) -> None:
        """Give an evictable leaf another place."""
        place = self._places[node.serial]
        self._queues[place.queue].discard(node.serial)
        self.sizes[place.queue] -= place.pages
        place.queue, place.rank = queue, rank
        self.sizes[queue] += place.pages
        self._queues[queue].push(node.serial, rank, node)

    def offer(self, node: CacheNode, place: Place) -> None:
        """A node is an evictable leaf now."""
        self._queues[place.queue].push(node.serial, place.rank, node)

    def released(self, node: CacheNode) -> None:
        self._settle()
        self.clock += 1
        place = self._places.get(node.serial)
        if place is None:
            place = self._places[node.serial] = Place()
        self.put(node, place)
        place.hits = node.hits
        place.pages = place.whole = node.pages
        self.sizes[place.queue] += place.pages
        if node.is_leaf:
            self.offer(node, place)

    def pinned(self, node: CacheNode) -> None:
        self._settle()
        place = self._places.get(node.serial)
        if place is not None:
            self.sizes[place.queue] -= place.pages
            place.pages = 0
            self._queues[place.queue].discard(node.serial)

    def removed(self, node: CacheNode) -> None:
        self._settle()
        place = self._places.pop(node.serial)
        self.sizes[place.queue] -= place.pages
        self._queues[place.queue].discard(node.serial)
        self.gone(node, place)
        parent = node.parent
        if parent is not None and parent.parent is not None and parent.is_leaf and not parent.locks:
            self.offer(parent, self._places[parent.serial])

    def victim(self) -> CacheNode:
        if self._named is None:
            self._named = self.choose()
        if self._named is None:
            raise LookupError("an eviction policy was asked for a victim, and no leaf is released")
        return self._named

    def split(self, upper: CacheNode, lower: CacheNode) -> None:
        place = self._places.get(lower.serial)
        if place is not None and upper.serial not in self._places:
            counted = upper.pages if place.pages else 0
            self._places[upper.serial] = replace(place, pages=counted, whole=upper.pages)
            place.whole -= upper.pages
            if place.pages:
                self.sizes[place.queue] += upper.pages
                self._recount(lower)

    def _settle(self) -> None:
        """The tree may have cut pages off the last victim; from now on another may be it."""
        if self._named is not None:
            self._recount(self._named)
            self._named = None

    def _recount(self, node: CacheNode) -> None:
        place = self._places[node.serial]
        self.sizes[place.queue] += node.pages - place.pages
        place.pages = node.pages

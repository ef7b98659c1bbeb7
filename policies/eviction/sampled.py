"""What policies have in common whose ranks change by themselves: they compare a sample of the leaves."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

from policies.errors import PolicyError
from policies.eviction.base import Eviction
from policies.hashing import mix
from policies.views import CacheNode


class Leaf(NamedTuple):
    """An evictable leaf, as policies compare it: what they ask for again and again is at hand.

    Attributes:
        node: The leaf.
        last: The clock at its last release.
        note: What the policy said of it (:meth:`SampledEviction.note`).
    """

    node: CacheNode
    last: int
    note: Any


class SampledEviction(Eviction):
    """Evicts the least worthy of some leaves, spread evenly from a drawn one on; of all leaves where they are few.

    Args:
        samples: How many leaves to compare, at least; never twice as many.
        seed: Another seed, other draws.

    Raises:
        PolicyError: There is nothing to compare.
    """

    def __init__(self, samples: int = 64, seed: int = 0) -> None:
        if samples < 1:
            raise PolicyError(f"policy.eviction.samples={samples}: expected at least 1, e.g. 64")
        self.clock = 0  # releases so far
        self._samples, self._seed = samples, seed
        self._draws = 0
        self._last: dict[int, int] = {}  # by serial: the clock at the last release
        self._leaves: list[Leaf] = []
        self._index: dict[int, int] = {}  # of each of them, by serial
        self._named: CacheNode | None = None  # the victim, until something else happens

    @abstractmethod
    def worth(self, leaves: Sequence[Leaf]) -> list[float]:
        """What it is worth to keep each of some leaves; among the least worthy the longest unused goes."""

    def note(self, node: CacheNode) -> Any:
        """What to note of a leaf: it stays as it is until the leaf is used."""
        del node
        return None

    def returned(self, node: CacheNode, age: int) -> None:
        """A node is released that was released before, ``age`` releases ago."""

    def age(self, node: CacheNode) -> int:
        """Releases since the node's own."""
        return self.clock - self._last[node.serial]

    def released(self, node: CacheNode) -> None:
        self._named = None
        self.clock += 1
        if node.serial in self._last:
            self.returned(node, self.age(node))
        self._last[node.serial] = self.clock
        if node.is_leaf:
            self._add(node)

    def pinned(self, node: CacheNode) -> None:
        self._named = None
        self._drop(node)

    def removed(self, node: CacheNode) -> None:
        self._named = None
        self._drop(node)
        del self._last[node.serial]
        parent = node.parent
        if parent is not None and parent.parent is not None and parent.is_leaf and not parent.locks:
            self._add(parent)

    def victim(self) -> CacheNode:
        if self._named is None:
            if not self._leaves:
                raise LookupError("an eviction policy was asked for a victim, and no leaf is released")
            leaves = self._sample()
            worth = self.worth(leaves)
            least = min(worth)
            chosen = leaves[worth.index(least)]
            if worth.count(least) > 1:
                chosen = min((leaf for leaf, its in zip(leaves, worth, strict=True) if its == least), key=_last)
            self._named = chosen.node
        return self._named

    def split(self, upper: CacheNode, lower: CacheNode) -> None:
        if lower.serial in self._last:
            self._last.setdefault(upper.serial, self._last[lower.serial])
        at = self._index.get(lower.serial)
        if at is not None:
            self._leaves[at] = self._leaves[at]._replace(note=self.note(lower))

    def _sample(self) -> list[Leaf]:
        """Every so many-th leaf, from a drawn one on."""
        step = len(self._leaves) // self._samples
        if step < 2:
            return self._leaves
        self._draws += 1
        return self._leaves[mix(self._seed, self._draws) % step :: step]

    def _add(self, node: CacheNode) -> None:
        self._index[node.serial] = len(self._leaves)
        self._leaves.append(Leaf(node, self._last[node.serial], self.note(node)))

    def _drop(self, node: CacheNode) -> None:
        at = self._index.pop(node.serial, None)
        if at is not None:
            last = self._leaves.pop()
            if last.node is not node:
                self._leaves[at] = last
                self._index[last.node.serial] = at


def _last(leaf: Leaf) -> int:
    return leaf.last

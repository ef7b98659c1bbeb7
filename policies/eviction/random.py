"""Random replacement."""

from __future__ import annotations

from policies.eviction.base import LeafHeap
from policies.hashing import uniform
from policies.views import CacheNode


class RandomEviction(LeafHeap):
    """Leaves in a random order, drawn anew whenever a leaf becomes evictable.

    Args:
        seed: Another seed, another order.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self._seed = seed
        self._draws = 0

    def priority(self, node: CacheNode) -> float:
        self._draws += 1
        return uniform(self._seed, node.serial, self._draws)

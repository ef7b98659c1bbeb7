"""LFU with dynamic ageing."""

from __future__ import annotations

from policies.eviction.queues import Place, QueuedEviction
from policies.views import CacheNode


class Lfuda(QueuedEviction):
    """The smallest ``uses + age at its last use``, where the age is the rank of the last leaf evicted.

    Arlitt, Cherkasova, Dilley, Friedrich and Jin, ACM SIGMETRICS Performance Evaluation Review 2000. The least recently
    used goes first among equals.
    """

    def __init__(self) -> None:
        super().__init__()
        self.age = 0.0

    def value(self, node: CacheNode) -> float:
        """What a use of the node is worth."""
        del node
        return 1.0

    def put(self, node: CacheNode, place: Place) -> None:
        place.rank = (self.age + node.hits * self.value(node), self.clock)

    def gone(self, node: CacheNode, place: Place) -> None:
        del node
        self.age = max(self.age, place.rank[0])

"""LRU-K."""

from __future__ import annotations

from policies.errors import PolicyError
from policies.eviction.queues import Place, QueuedEviction
from policies.views import CacheNode


class LruK(QueuedEviction):
    """The leaf whose ``k``-th last use lies furthest back; one with fewer uses before all others, by its last.

    O'Neil, O'Neil and Weikum, SIGMOD 1993, without retained information: an evicted node's history is forgotten. While
    anything is left that was used fewer times, what was used ``k`` times stays, however long ago that was.

    Args:
        k: 2 in the paper; 1 is LRU.

    Raises:
        PolicyError: ``k`` is less than 1.
    """

    def __init__(self, k: int = 2) -> None:
        super().__init__()
        if k < 1:
            raise PolicyError(f"policy.eviction.k={k}: expected at least 1, e.g. 2")
        self._k = k
        self._times: dict[int, tuple[int, ...]] = {}  # last uses by serial, newest last, k at most

    def put(self, node: CacheNode, place: Place) -> None:
        times = (*self._times.get(node.serial, ()), self.clock)[-self._k :]
        self._times[node.serial] = times
        place.rank = (times[0] if len(times) == self._k else 0, self.clock)

    def gone(self, node: CacheNode, place: Place) -> None:
        del place
        del self._times[node.serial]

    def split(self, upper: CacheNode, lower: CacheNode) -> None:
        super().split(upper, lower)
        if lower.serial in self._times:
            self._times.setdefault(upper.serial, self._times[lower.serial])

"""By the priority of those who use it."""

from __future__ import annotations

from policies.eviction.queues import Place, QueuedEviction
from policies.views import CacheNode, RequestView


class PriorityEviction(QueuedEviction):
    """The lowest priority first, least recently used among equals (SGLang's priority).

    A node has the highest priority of the requests that used it since it entered. Nothing ages: what one urgent request
    used stays for ever as long as anything less urgent can go. Where all requests have one priority, this is LRU.
    """

    def __init__(self) -> None:
        super().__init__()
        self._priority: dict[int, int] = {}  # by serial

    def used(self, node: CacheNode, request: RequestView) -> None:
        self._priority[node.serial] = max(self._priority.get(node.serial, request.priority), request.priority)

    def put(self, node: CacheNode, place: Place) -> None:
        place.rank = (self._priority[node.serial], self.clock)

    def gone(self, node: CacheNode, place: Place) -> None:
        del place
        del self._priority[node.serial]

    def split(self, upper: CacheNode, lower: CacheNode) -> None:
        super().split(upper, lower)
        self._priority[upper.serial] = self._priority[lower.serial]

"""Most recently used."""

from __future__ import annotations

from policies.eviction.queues import Place, QueuedEviction
from policies.views import CacheNode


class Mru(QueuedEviction):
    """The leaf whose last reader left just now (SGLang's mru): right for scans that come round again.

    What is not used again stays for ever, as long as anything used since can go.
    """

    def put(self, node: CacheNode, place: Place) -> None:
        del node
        place.rank = -self.clock

"""Time to live."""

from __future__ import annotations

from policies.errors import PolicyError
from policies.eviction.queues import Place, QueuedEviction
from policies.views import CacheNode


class Ttl(QueuedEviction):
    """The leaf that expires first: a use is good for a while, longer for what was used before.

    The lifetimes are those of priced prompt caches (five minutes, an hour), where a prefix that came back may be kept
    for the longer one. Nothing is freed before its pages are needed. With equal lifetimes this is LRU;
    without a clock (nobody calls :meth:`tick`) the two lifetimes are two classes, as in SLRU.

    Args:
        once_s: Lifetime of what was used once, seconds.
        again_s: Lifetime of what was used again, seconds.

    Raises:
        PolicyError: A lifetime is negative.
    """

    def __init__(self, once_s: float = 300.0, again_s: float = 3600.0) -> None:
        super().__init__()
        for knob, lifetime_s in (("once_s", once_s), ("again_s", again_s)):
            if not lifetime_s >= 0:
                raise PolicyError(f"policy.eviction.{knob}={lifetime_s}: expected 0 or more seconds, e.g. 300")
        self._once_s, self._again_s = once_s, again_s
        self._now_s = 0.0

    def tick(self, now_s: float) -> None:
        self._now_s = now_s

    def put(self, node: CacheNode, place: Place) -> None:
        place.rank = (self._now_s + (self._again_s if node.hits > 1 else self._once_s), self.clock)

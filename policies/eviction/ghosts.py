"""What was evicted lately: names without contents."""

from __future__ import annotations

from hashlib import blake2b

from policies.views import CacheNode


def prefix_key(node: CacheNode) -> bytes:
    """Names a node by all tokens up to the end of its first page (16 bytes of BLAKE2).

    A node that comes back after its eviction begins where it began before, whatever it was cut to or continued by.
    Costs a pass over the tokens of the path.
    """
    path = [node.key[: len(node.key) // node.pages]]
    above = node.parent
    while above is not None:
        path.append(above.key)
        above = above.parent
    digest = blake2b(digest_size=16)
    for key in reversed(path):
        digest.update(key)
    return digest.digest()


class Ghosts:
    """A queue of evicted nodes' names, the oldest forgotten first.

    A node that was only cut, not removed, has no ghost.

    Attributes:
        pages: What they held, together.
    """

    def __init__(self) -> None:
        self.pages = 0
        self._pages: dict[bytes, int] = {}

    def add(self, key: bytes, pages: int) -> None:
        """A node was evicted."""
        self.pop(key)
        self._pages[key] = pages
        self.pages += pages

    def pop(self, key: bytes) -> bool:
        """Forget a name; whether it was known."""
        pages = self._pages.pop(key, 0)
        self.pages -= pages
        return pages > 0

    def trim(self, pages: float) -> None:
        """Forget the oldest, until what is left held no more than ``pages``."""
        while self.pages > pages:
            self.pages -= self._pages.pop(next(iter(self._pages)))

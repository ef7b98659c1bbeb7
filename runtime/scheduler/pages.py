"""The page pool: which pages of KV memory are free."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

PageIds = npt.NDArray[np.int32]


class PagePool:
    """Free pages as a ring: first freed, first taken, so that taking n at once or one by one gives the same pages.

    Args:
        pages: Page ids run from 0 to ``pages - 1``.
    """

    def __init__(self, pages: int) -> None:
        self.pages = pages
        self.free = pages
        self._ring = np.arange(pages, dtype=np.int32)
        self._head = 0

    def take(self, count: int) -> PageIds:
        """Take ``count`` pages, at most ``free``."""
        if count > self.free:
            raise ValueError(f"{count} pages taken of {self.free} free ones")
        end = self._head + count
        if end <= self.pages:
            taken = self._ring[self._head : end].copy()
        else:
            taken = np.concatenate([self._ring[self._head :], self._ring[: end - self.pages]])
        self._head = end % self.pages
        self.free -= count
        return taken

    def give(self, pages: PageIds) -> None:
        """Give pages back."""
        count = len(pages)
        if self.free + count > self.pages:
            raise ValueError(f"{count} pages given back to a pool that lacks {self.pages - self.free}")
        tail = (self._head + self.free) % self.pages
        room = self.pages - tail
        if count <= room:
            self._ring[tail : tail + count] = pages
        else:
            self._ring[tail:] = pages[:room]
            self._ring[: count - room] = pages[room:]
        self.free += count

    def free_pages(self) -> PageIds:
        """The free pages, next to be taken first."""
        return np.take(self._ring, np.arange(self._head, self._head + self.free), mode="wrap")

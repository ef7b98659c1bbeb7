"""Items by rank, any of which may leave at any time."""

from __future__ import annotations

import heapq
from typing import Any, Generic, TypeVar

ItemT = TypeVar("ItemT")
MOST_DEAD = 1000  # entries of the heap, beyond those that count twice over: few are cleaned away as they come


class LazyHeap(Generic[ItemT]):
    """Items by rank, smallest first, then by key: a heap in which an entry that has left stays until it surfaces.

    Where too many never surface, it is built anew: its size is at most twice that of what is in it, and a constant.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[Any, int]] = []  # rank, key
        self._valid: dict[int, tuple[tuple[Any, int], ItemT]] = {}  # by key: its one entry that counts

    def __len__(self) -> int:
        return len(self._valid)

    def push(self, key: int, rank: Any, item: ItemT) -> None:
        """Add an item, or give the one of that key another rank.

        Args:
            key: Its own; of two items of the same rank the one with the smaller key comes first.
            rank: A number or a tuple of numbers, one kind for all.
            item: What it stands for.
        """
        entry = (rank, key)
        self._valid[key] = (entry, item)
        heapq.heappush(self._heap, entry)
        self._clean()

    def discard(self, key: int) -> None:
        """Take an item out, if it is there."""
        self._valid.pop(key, None)
        self._clean()

    def first(self) -> ItemT | None:
        """The item of the smallest rank, None where there is none."""
        while self._heap:
            entry = self._heap[0]
            found = self._valid.get(entry[1])
            if found is not None and found[0] is entry:
                return found[1]
            heapq.heappop(self._heap)  # it has left, or has another rank since
        return None

    def _clean(self) -> None:
        if len(self._heap) > MOST_DEAD + 2 * len(self._valid):
            self._heap = [entry for entry, _ in self._valid.values()]
            heapq.heapify(self._heap)

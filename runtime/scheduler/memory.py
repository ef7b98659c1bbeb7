"""KV memory: who owns which page. Every page is free, or in the prefix cache, or with one sequence."""

from __future__ import annotations

from collections.abc import Sequence as Sequences

import numpy as np
import numpy.typing as npt

from runtime.scheduler.config import SchedulerConfig
from runtime.scheduler.pages import PageIds, PagePool
from runtime.scheduler.prefix import NO_PAGES, Match, PrefixCache
from runtime.scheduler.sequence import Sequence


class KvMemory:
    """The page pool, the prefix cache and the page table, kept in step.

    Attributes:
        table: (max_running, max_row_pages) int32: the page of each page-sized run of a sequence's tokens, by the row
            that the sequence occupies. The engine reads it.
        held_pages: Of all sequences' rows, a page counted once for each row that it is in.

    Args:
        config: Sizes.
        cache: The prefix cache, empty.
    """

    def __init__(self, config: SchedulerConfig, cache: PrefixCache) -> None:
        self.pool = PagePool(config.pages)
        self.cache = cache
        self.table: npt.NDArray[np.int32] = np.zeros((config.max_running, config.max_row_pages), np.int32)
        self.held_pages = 0
        self._page_size = config.page_size
        self._free_rows = list(range(config.max_running - 1, -1, -1))
        self._evicted = 0

    @property
    def available_pages(self) -> int:
        """Pages free or held only by the cache."""
        return self.pool.free + self.cache.evictable_pages

    def shared_tokens(self, available_pages: int) -> int:
        """Tokens of KV of which sequences hold the same page, counted once less than they are held.

        Args:
            available_pages: As :attr:`available_pages` is now; who asks has just counted them.
        """
        return (self.held_pages + available_pages - self.pool.pages) * self._page_size

    def take_evicted(self) -> int:
        """Pages evicted since this was last asked."""
        evicted, self._evicted = self._evicted, 0
        return evicted

    def obtain(self, count: int) -> int:
        """Have ``count`` pages free, evicting as needed; returns how many there are, at most ``count``."""
        missing = count - self.pool.free
        if missing > 0:
            evicted = min(missing, self.cache.evictable_pages)
            if evicted:
                self.pool.give(self.cache.evict(evicted))
                self._evicted += evicted
            return min(self.pool.free, count)
        return count

    def occupy(self, sequence: Sequence, match: Match) -> None:
        """Give an admitted sequence a row that begins with its cached prefix, locked."""
        sequence.row = self._free_rows.pop()
        sequence.node, prefix = self.cache.lock(match, sequence)
        self.table[sequence.row, : len(prefix)] = prefix
        sequence.held_pages = len(prefix)
        self.held_pages += len(prefix)
        sequence.cached = sequence.computed = match.tokens

    def extend(self, sequence: Sequence, count: int) -> None:
        """Append ``count`` free pages to a sequence's row."""
        held = sequence.held_pages
        self.table[sequence.row, held : held + count] = self.pool.take(count)
        sequence.held_pages = held + count
        self.held_pages += count

    def grow(self, sequences: Sequences[Sequence]) -> None:
        """Append one free page to the row of each sequence."""
        for sequence, page in zip(sequences, self.pool.take(len(sequences)).tolist(), strict=True):
            self.table[sequence.row, sequence.held_pages] = page
            sequence.held_pages += 1
        self.held_pages += len(sequences)

    def grow_by(self, sequences: Sequences[Sequence], counts: Sequences[int]) -> None:
        """Append ``counts[i]`` pages, evicting as needed, to the row of sequence ``i``."""
        total = sum(counts)
        self.obtain(total)
        self.held_pages += total
        pages, at = self.pool.take(total), 0
        for sequence, count in zip(sequences, counts, strict=True):
            held = sequence.held_pages
            self.table[sequence.row, held : held + count] = pages[at : at + count]
            sequence.held_pages = held + count
            at += count

    def remember(self, sequence: Sequence, end: int) -> None:
        """Hand a running sequence's computed tokens up to ``end`` to the prefix cache, whole pages of them.

        Where another sequence brought the same tokens meanwhile, this one keeps its own pages until it leaves: the page
        table names them, and to lock the other's as well would take memory that no one reserved.
        """
        tokens = sequence.tokens[sequence.cached : end]
        if not self.cache.continues(sequence.node, tokens):
            self._insert(sequence, end)

    def vacate(self, sequence: Sequence, end: int) -> None:
        """Take back a sequence's row and pages; its tokens up to ``end`` stay cached, evictable."""
        duplicates = self._insert(sequence, end)
        self.cache.unlock(sequence.node)
        if len(duplicates):
            self.pool.give(duplicates)
        self.pool.give(self.table[sequence.row, sequence.cached // self._page_size : sequence.held_pages])
        self._free_rows.append(sequence.row)
        self.held_pages -= sequence.held_pages
        sequence.row, sequence.held_pages, sequence.node = -1, 0, None

    def _insert(self, sequence: Sequence, end: int) -> PageIds:
        """Insert tokens up to ``end``; returns the pages that the cache did not want."""
        page_size = self._page_size
        end -= end % page_size
        if end <= sequence.cached:
            return NO_PAGES
        pages = self.table[sequence.row, sequence.cached // page_size : end // page_size].copy()
        tokens = sequence.tokens[sequence.cached : end]
        node, duplicates = self.cache.insert(sequence.node, tokens, pages, sequence)
        if node is None:
            return NO_PAGES  # all of them are still the sequence's own
        sequence.node = node
        sequence.cached = end
        return duplicates

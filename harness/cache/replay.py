"""The accesses of a trace through the server's own prefix tree, one block a page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from runtime.scheduler.prefix import RadixCache

if TYPE_CHECKING:
    from harness.cache.accesses import Accesses
    from policies.eviction import Eviction
    from traces.schema import IntArray


def replay_hits(accesses: Accesses, eviction: Eviction, size: int) -> IntArray:
    """What the radix tree finds under a policy.

    Each request matches, locks what it found, brings the rest (as much as fits) and leaves at once. Block numbers
    stand for tokens.

    Args:
        accesses: The lookups.
        eviction: A fresh policy.
        size: Capacity, blocks.

    Returns:
        (requests,) blocks found at the front of each prompt.
    """
    cache = RadixCache(1, eviction)
    pages = np.zeros(int(np.diff(accesses.start).max(initial=0)), dtype=np.int32)  # which ones plays no part
    hits = np.empty(len(accesses), dtype=np.int64)
    starts = accesses.start.tolist()
    free = size
    for row, (reader, arrival_s) in enumerate(zip(accesses.readers, accesses.arrival_s.tolist(), strict=True)):
        blocks = accesses.block[starts[row] : starts[row + 1]]
        eviction.tick(arrival_s)
        match = cache.match(blocks)
        hits[row] = match.tokens
        node, _ = cache.lock(match, reader)
        rest = blocks[match.tokens :][: free + cache.evictable_pages]
        if len(rest):
            if len(rest) > free:
                cache.evict(len(rest) - free)
                free = len(rest)
            node, _ = cache.insert(node, rest, pages[: len(rest)], reader)
            free -= len(rest)
        cache.unlock(node)
    return hits

"""LRU at all sizes in one pass, by stack distances (Mattson et al., IBM Systems Journal 1970)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.cache.reuse import Reuse
    from traces.schema import IntArray


def lru_hits(reuse: Reuse, sizes: Sequence[int]) -> IntArray:
    """What a prefix tree under LRU finds, exactly.

    A path is touched from its tail to its root, so an ancestor always lies above its descendants on the stack: leaves
    go first without being asked to, and the cache of ``n`` blocks holds the top ``n`` of one stack for all ``n``.

    Args:
        reuse: The accesses.
        sizes: Capacities, blocks.

    Returns:
        (sizes, requests) blocks found at the front of each prompt.
    """
    used = np.flatnonzero(reuse.next < reuse.requests)
    above = _blocks_above(reuse, used)
    hits = np.empty((len(sizes), reuse.requests), dtype=np.int64)
    for row, size in enumerate(sizes):
        found = np.clip(size - above, 0, reuse.blocks[used])
        hits[row] = np.bincount(reuse.next[used], weights=found, minlength=reuse.requests)
    return hits


def _blocks_above(reuse: Reuse, used: IntArray) -> IntArray:
    """Blocks above each of the runs ``used`` on the stack when it is used again.

    Those are the blocks of the requests between its two uses, less the ones among them that were used again by then.
    """
    total = np.concatenate(([0], np.cumsum(np.bincount(reuse.request, reuse.blocks, reuse.requests)))).astype(np.int64)
    since, until = reuse.request[used], reuse.next[used]
    order = np.argsort(reuse.next, kind="stable")
    ends_before = np.searchsorted(reuse.next[order], until)
    blocks = np.concatenate(([0], np.cumsum(reuse.blocks[order])))
    early = _prefix_sums_below(reuse.request[order], reuse.blocks[order], ends_before, since + 1)
    again: IntArray = blocks[ends_before] - early
    return total[until] - total[since + 1] - again


def _prefix_sums_below(values: IntArray, weights: IntArray, ends: IntArray, bounds: IntArray) -> IntArray:
    """For each query the sum of ``weights[i]`` over ``i < end`` with ``values[i] < bound``.

    A wavelet matrix (Claude and Navarro, SPIRE 2012), one bit of the values at a time and all queries at once.
    """
    sums = np.zeros(len(ends), dtype=np.int64)
    lows = np.zeros(len(ends), dtype=np.int64)
    highs = ends.copy()
    top = int(max(values.max(initial=0), bounds.max(initial=0))).bit_length()
    for bit in range(top - 1, -1, -1):
        one = (values >> bit & 1).astype(np.bool_)
        zeros = np.concatenate(([0], np.cumsum(~one)))
        weight = np.concatenate(([0], np.cumsum(np.where(one, 0, weights))))
        greater = (bounds >> bit & 1).astype(np.bool_)
        sums += np.where(greater, weight[highs] - weight[lows], 0)
        lows = np.where(greater, zeros[-1] + lows - zeros[lows], zeros[lows])
        highs = np.where(greater, zeros[-1] + highs - zeros[highs], zeros[highs])
        order = np.argsort(one, kind="stable")
        values, weights = values[order], weights[order]
    return sums

"""Belady's bound: the most that any eviction policy can find."""

from __future__ import annotations

import heapq
from collections import deque
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from harness.cache.reuse import Reuse
    from traces.schema import IntArray


def belady_hits(reuse: Reuse, size: int, horizon: int | None = None) -> IntArray:
    """What a prefix tree finds that always evicts the block whose next use is furthest (Belady, 1966).

    A block is used whenever one behind it is, so the furthest next use, the deepest first among equals, is always that
    of a leaf: the bound holds for trees as it is. A running request needs room for its whole prompt, so nothing
    bypasses the cache. A prompt longer than the cache keeps its first blocks.

    Args:
        reuse: The accesses.
        size: Capacity, blocks.
        horizon: See only so many requests ahead: what is not used by then goes first, the least recently used before
            others. Without, see all.

    Returns:
        (requests,) blocks found at the front of each prompt.
    """
    n = reuse.requests
    ahead = n if horizon is None else horizon
    held = reuse.blocks.tolist()  # of each run, the blocks still cached once its request has been
    next_use, depth = reuse.next.tolist(), reuse.depth.tolist()
    first_run = np.searchsorted(reuse.request, np.arange(n + 1)).tolist()
    by_next = np.argsort(reuse.next, kind="stable")
    first_due = np.searchsorted(reuse.next[by_next], np.arange(n + ahead + 1)).tolist()
    due = by_next.tolist()

    hits = np.zeros(n, dtype=np.int64)
    unseen: deque[int] = deque()  # runs that were beyond the horizon when released, least recently used first
    seen: list[tuple[int, int, int]] = []  # heap of (-next use, -depth, run)
    used = 0
    for now in range(n):
        if horizon is not None:
            for run in due[first_due[now + ahead] : first_due[now + ahead + 1]]:
                # Come into sight; a run of this very request or of later ones is pushed at its release.
                if next_use[run] < n and run < first_run[now] and held[run]:
                    heapq.heappush(seen, (-next_use[run], -depth[run], run))
        found = 0
        for run in due[first_due[now] : first_due[now + 1]]:
            found += held[run]
            held[run] = 0
        hits[now] = found
        runs = range(first_run[now], first_run[now + 1])
        kept = min(depth[runs[-1]] + held[runs[-1]], size) if runs else 0
        used += kept - found
        excess = used - size
        while excess > 0:
            if unseen:
                run = unseen[0]
                if not held[run] or next_use[run] < min(n, now + ahead + 1):
                    unseen.popleft()  # used, or come into sight
                    continue
            else:
                run = seen[0][2]
                if not held[run]:
                    heapq.heappop(seen)
                    continue
            gone = min(held[run], excess)
            held[run] -= gone
            excess -= gone
        used = min(used, size)
        for run in reversed(runs):
            held[run] = max(min(held[run], kept - depth[run]), 0)
            if next_use[run] < min(n, now + ahead + 1):
                heapq.heappush(seen, (-next_use[run], -depth[run], run))
            else:
                unseen.append(run)
    return hits

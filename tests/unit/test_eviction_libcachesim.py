"""Flat traces (every object one block, no parents) against libCacheSim, where that package is installed.

Of the policies that both have by name, SLRU is left out: theirs bounds its segments, SGLang's does not.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from harness.cache.accesses import Accesses, Reader
from harness.cache.clairvoyant import belady_hits
from harness.cache.replay import replay_hits
from harness.cache.reuse import find_reuse
from policies.registry import build

libcachesim = pytest.importorskip("libcachesim", reason="libcachesim is not installed (GPL: never a dependency)")

REQUESTS, OBJECTS, NEVER = 12_000, 1_500, 2**62
EXACT = {"lru": "LRU", "fifo": "FIFO", "lru_k": "LRUK", "sieve": "Sieve"}
# The same rule with other details: ties (lfu, gdsf), a ghost list met after the eviction instead of before it (two_q,
# arc), a first fill of the main queue (s3fifo), other draws (hyperbolic). As the share of requests on which the two may
# differ. LFU with dynamic ageing is GDSF where all costs and sizes are one; what is called LFUDA there adds the age to
# the count at every hit.
CLOSE = {
    "lfu": ("LFU", 0.01),
    "lfuda": ("GDSF", 0.02),
    "gdsf": ("GDSF", 0.02),
    "pgdsf": ("GDSF", 0.02),
    "two_q": ("TwoQ", 0.01),
    "arc": ("ARC", 0.005),
    "s3fifo": ("S3FIFO", 0.04),
    "hyperbolic": ("Hyperbolic", 0.02),
}
# Alike as far as their hit ratios are: by how much those may differ. LHD bins ages otherwise; W-TinyLFU counts in a
# sketch that forgets, ours exactly.
ALIKE = {"random": ("Random", 0.01), "lhd": ("LHD", 0.01), "wtinylfu": ("WTinyLFU", 0.05)}
FLAT = {"gdsf": {"attention_tokens": float("inf")}, "pgdsf": {"attention_tokens": float("inf"), "floor_tokens": 0.0}}


def objects(seed: int) -> npt.NDArray[np.int32]:
    """A skewed trace with a popularity that drifts."""
    rng = np.random.default_rng(seed)
    drift = np.arange(REQUESTS) // 40
    return ((rng.zipf(1.2, REQUESTS) + drift) % OBJECTS).astype(np.int32)


def accesses_of(trace: npt.NDArray[np.int32]) -> Accesses:
    n = len(trace)
    return Accesses(np.arange(n + 1), trace, np.ones(n, np.int64), np.zeros(n), 1, tuple(map(Reader, range(n))))


def ours(name: str, trace: npt.NDArray[np.int32], size: int) -> list[bool]:
    eviction = build("eviction", name, FLAT.get(name, {}))
    return [hit > 0 for hit in replay_hits(accesses_of(trace), eviction, size).tolist()]


def next_uses(trace: npt.NDArray[np.int32]) -> list[int]:
    """For each request when its object is asked for again, counted from 1."""
    again: dict[int, int] = {}
    found = []
    for at in range(len(trace), 0, -1):
        found.append(again.get(int(trace[at - 1]), NEVER))
        again[int(trace[at - 1])] = at
    return found[::-1]


def theirs(cache: Any, trace: npt.NDArray[np.int32]) -> list[bool]:
    hits = []
    for number, again in zip(trace.tolist(), next_uses(trace), strict=True):
        request = libcachesim.Request()
        request.obj_id, request.obj_size, request.next_access_vtime = number, 1, again
        hits.append(bool(cache.get(request)))
    return hits


@pytest.mark.parametrize("size", [100, 400])
@pytest.mark.parametrize("name", EXACT)
def test_the_same_hits(name: str, size: int) -> None:
    trace = objects(seed=size)
    cache = getattr(libcachesim, EXACT[name])(size)
    found = ours(name, trace, size)
    assert 0.1 < np.mean(found) < 0.9
    assert found == theirs(cache, trace)


@pytest.mark.parametrize("size", [100, 400])
@pytest.mark.parametrize("name", CLOSE)
def test_nearly_the_same_hits(name: str, size: int) -> None:
    trace = objects(seed=size)
    kind, share = CLOSE[name]
    found, expected = ours(name, trace, size), theirs(getattr(libcachesim, kind)(size), trace)
    assert np.mean(np.array(found) != np.array(expected)) <= share
    assert abs(np.mean(found) - np.mean(expected)) < 0.006


@pytest.mark.parametrize("size", [100, 400])
@pytest.mark.parametrize("name", ALIKE)
def test_as_many_hits(name: str, size: int) -> None:
    trace = objects(seed=size)
    kind, share = ALIKE[name]
    found, expected = ours(name, trace, size), theirs(getattr(libcachesim, kind)(size), trace)
    assert abs(np.mean(found) - np.mean(expected)) < share


@pytest.mark.parametrize("size", [100, 400])
def test_the_clairvoyant_bound_hit_for_hit(size: int) -> None:
    trace = objects(seed=size)
    found = [hit > 0 for hit in belady_hits(find_reuse(accesses_of(trace)), size).tolist()]
    assert found == theirs(libcachesim.Belady(size), trace)

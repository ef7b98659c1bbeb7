"""Flat traces (every object one block, no parents) against libCacheSim, where that package is installed."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from harness.cache.accesses import Accesses
from harness.cache.replay import replay_hits
from policies.registry import build

libcachesim = pytest.importorskip("libcachesim", reason="libcachesim is not installed (GPL: never a dependency)")

REQUESTS, OBJECTS = 12_000, 1_500
EXACT = {"lru": "LRU", "fifo": "FIFO", "lru_k": "LRUK", "sieve": "Sieve"}
# The same rule with other details: ties (lfu, gdsf), a ghost list met after the eviction instead of before it (two_q,
# arc), a first fill of the main queue (s3fifo). As the share of requests on which the two may differ.
CLOSE = {
    "lfu": ("LFU", 0.01),
    "gdsf": ("GDSF", 0.02),
    "two_q": ("TwoQ", 0.01),
    "arc": ("ARC", 0.005),
    "s3fifo": ("S3FIFO", 0.04),
}


def objects(seed: int) -> npt.NDArray[np.int32]:
    """A skewed trace with a popularity that drifts."""
    rng = np.random.default_rng(seed)
    drift = np.arange(REQUESTS) // 40
    return ((rng.zipf(1.2, REQUESTS) + drift) % OBJECTS).astype(np.int32)


def ours(name: str, trace: npt.NDArray[np.int32], size: int) -> list[bool]:
    n = len(trace)
    accesses = Accesses(np.arange(n + 1), trace, np.ones(n, np.int64), np.zeros(n), 1)
    parameters = {"attention_tokens": float("inf")} if name == "gdsf" else {}
    return [hit > 0 for hit in replay_hits(accesses, build("eviction", name, parameters), size).tolist()]


def theirs(cache: Any, trace: npt.NDArray[np.int32]) -> list[bool]:
    hits = []
    for number in trace.tolist():
        request = libcachesim.Request()
        request.obj_id, request.obj_size = number, 1
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

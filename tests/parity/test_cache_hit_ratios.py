"""The prefix cache alone, without time, on the real conversation trace at block level: published hit ratios.

A block id of the trace names the block and all before it, so ids stand for tokens and pages are of one "token". Each
request matches, locks what it found, brings the rest, and leaves at once. A hit is ``min(512 k, L - 1)`` tokens for
``k`` blocks found of a prompt of ``L`` tokens; blocks that are not full count like any other.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from harness.cache.accesses import Reader
from policies.eviction import Eviction, Fifo, Lfu, Lru
from runtime.scheduler.pages import PagePool
from runtime.scheduler.prefix import RadixCache
from traces.load import load
from traces.schema import Trace

BLOCK = 512
SIZES = (5_000, 10_000, 30_000)
PUBLISHED = {"lru": (11.4, 21.6, 33.2), "lfu": (9.4, 13.4, 28.1), "fifo": (11.4, 21.5, 33.2)}
POLICIES: dict[str, Callable[[], Eviction]] = {"lru": Lru, "lfu": Lfu, "fifo": Fifo}
Prompt = tuple[int, npt.NDArray[np.int32]]


@pytest.fixture(scope="module")
def prompts(real_traces: Path) -> list[Prompt]:
    """Tokens of each prompt, and its block ids made consecutive."""
    path = real_traces / "mooncake" / "conversation_trace.jsonl"
    if not path.is_file():
        pytest.skip(f"the Mooncake conversation trace is not at {path}")
    trace: Trace = load(str(path))
    ids = np.unique(trace.block_id, return_inverse=True)[1].astype(np.int32)
    parts = np.split(ids, trace.block_start[1:-1])
    return list(zip(trace.prompt_tokens.tolist(), parts, strict=True))


def hits_of(prompts: list[Prompt], eviction: Eviction, pages: int) -> list[int]:
    """Blocks found for each request."""
    cache, pool = RadixCache(1, eviction), PagePool(pages)
    hits = []
    for row, (_, blocks) in enumerate(prompts):
        match = cache.match(blocks)
        hits.append(match.tokens)
        node, _ = cache.lock(match, Reader(row))
        rest = blocks[match.tokens :][: pool.free + cache.evictable_pages]
        if len(rest) > pool.free:
            pool.give(cache.evict(len(rest) - pool.free))
        node, duplicates = cache.insert(node, rest, pool.take(len(rest)), Reader(row))
        assert not len(duplicates)
        cache.unlock(node)
    assert cache.evictable_pages + pool.free == pages
    return hits


def ratio(prompts: list[Prompt], hits: list[int]) -> float:
    found = sum(min(BLOCK * k, tokens - 1) for k, (tokens, _) in zip(hits, prompts, strict=True))
    return 100 * found / sum(tokens for tokens, _ in prompts)


def reference_hits(prompts: list[Prompt], pages: int, *, recency: bool) -> list[int]:
    """The same by blocks: a set of blocks, of which the childless one with the oldest stamp goes.

    Args:
        prompts: Requests.
        pages: Capacity, blocks.
        recency: Whether a stamp is renewed with each use (LRU) or kept (FIFO); within a request the deepest is oldest.
    """
    stamp: dict[int, tuple[int, int]] = {}
    parent: dict[int, int] = {}
    children: dict[int, int] = {}
    heap: list[tuple[tuple[int, int], int]] = []
    hits = []
    for now, (_, array) in enumerate(prompts):
        blocks: list[int] = array.tolist()
        k = next((i for i, block in enumerate(blocks) if block not in stamp), len(blocks))
        hits.append(k)
        locked = set(blocks[:k])
        if recency:
            for depth, block in enumerate(blocks[:k]):
                stamp[block] = (now, -depth)
        new = blocks[k : k + pages - k]
        kept: list[tuple[tuple[int, int], int]] = []
        while len(stamp) + len(new) > pages:
            entry = heapq.heappop(heap)
            block = entry[1]
            if stamp.get(block) != entry[0] or children.get(block):
                continue  # renewed, gone or continued since
            if block in locked:
                kept.append(entry)
                continue
            del stamp[block]
            above = parent[block]
            if above >= 0:
                children[above] -= 1
                if not children[above]:
                    heapq.heappush(heap, (stamp[above], above))
        for entry in kept:
            heapq.heappush(heap, entry)
        for depth, block in enumerate(new, k):
            stamp[block] = (now, -depth)
            parent[block] = blocks[depth - 1] if depth else -1
            if depth:
                children[blocks[depth - 1]] = children.get(blocks[depth - 1], 0) + 1
        for block in blocks[: k + len(new)]:
            if not children.get(block):
                heapq.heappush(heap, (stamp[block], block))
    return hits


@pytest.mark.parametrize("policy", PUBLISHED)
def test_bounded_caches_hit_as_often_as_published(prompts: list[Prompt], policy: str) -> None:
    found = [ratio(prompts, hits_of(prompts, POLICIES[policy](), size)) for size in SIZES]
    assert [round(share, 1) for share in found] == list(PUBLISHED[policy])


def test_an_unbounded_cache_hits_what_can_be_hit(prompts: list[Prompt]) -> None:
    distinct = len({block for _, blocks in prompts for block in blocks.tolist()})
    hits = hits_of(prompts, Lru(), distinct)
    assert round(ratio(prompts, hits), 1) == 37.4
    seen: set[int] = set()
    for (_, blocks), k in zip(prompts, hits, strict=True):
        assert seen.issuperset(blocks[:k].tolist())
        assert k == len(blocks) or int(blocks[k]) not in seen
        seen.update(blocks.tolist())


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("policy", ["lru", "fifo"])
def test_every_request_hits_as_in_a_cache_of_single_blocks(prompts: list[Prompt], policy: str, size: int) -> None:
    expected = reference_hits(prompts, size, recency=policy == "lru")
    assert hits_of(prompts, POLICIES[policy](), size) == expected

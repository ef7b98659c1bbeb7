"""The replays that take short cuts: LRU at all sizes at once, and Belady's bound, against plain ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.cache.accesses import Accesses, Reader
from harness.cache.clairvoyant import belady_hits
from harness.cache.replay import replay_hits
from harness.cache.reuse import find_reuse
from harness.cache.stack import lru_hits
from policies.registry import PARTS, build

Prompt = tuple[int, ...]
NEVER = 10**9


@st.composite
def prompts(draw: st.DrawFn, longest: int = 7, most: int = 40, kinds: int = 3) -> list[Prompt]:
    """Prompts that share prefixes and come again; each block is named by its whole prefix."""
    digits = st.lists(st.integers(1, kinds), min_size=1, max_size=longest).map(tuple)
    pool = draw(st.lists(digits, min_size=1, max_size=8))
    drawn = [pool[at % len(pool)] for at in draw(st.lists(st.integers(0, 7), min_size=1, max_size=most))]
    names: dict[Prompt, int] = {}
    return [tuple(names.setdefault(p[: d + 1], len(names)) for d in range(len(p))) for p in drawn]


def accesses_of(asked: list[Prompt]) -> Accesses:
    lengths = np.array([len(prompt) for prompt in asked])
    blocks = np.array([block for prompt in asked for block in prompt], np.int32)
    start = np.concatenate(([0], np.cumsum(lengths)))
    readers = tuple(Reader(row, priority=row % 3, session_id=row % 4) for row in range(len(asked)))
    return Accesses(start, blocks, lengths, np.arange(len(asked), dtype=np.float64), 1, readers)


@given(asked=prompts(), sizes=st.lists(st.integers(1, 30), min_size=1, max_size=4))
def test_one_pass_of_stack_distances_is_lru_at_every_size(asked: list[Prompt], sizes: list[int]) -> None:
    accesses = accesses_of(asked)
    hits = lru_hits(find_reuse(accesses), sizes)
    for size, row in zip(sizes, hits, strict=True):
        assert row.tolist() == replay_hits(accesses, build("eviction", "lru", {}), size).tolist()


def plain_belady(asked: list[Prompt], size: int, horizon: int) -> list[int]:
    """The rule block by block: furthest next use first, deepest among equals; out of sight by recency."""
    cached: dict[int, tuple[int, int]] = {}  # block -> (when used, depth)
    hits = []
    for now, prompt in enumerate(asked):
        hits.append(next((d for d, block in enumerate(prompt) if block not in cached), len(prompt)))
        kept = prompt[:size]

        def rank(block: int, now: int = now) -> tuple[int, int, int]:
            upcoming = (later for later in range(now, len(asked)) if block in asked[later])
            at = next(upcoming, NEVER)
            used, depth = cached[block]
            return (at, 0, depth) if at < now + horizon + 1 else (NEVER, -used, depth)

        while len(cached.keys() | set(kept)) > size:
            del cached[max((block for block in cached if block not in kept), key=rank)]
        cached.update({block: (now, depth) for depth, block in enumerate(kept)})
    return hits


@given(asked=prompts(), size=st.integers(1, 20), horizon=st.none() | st.integers(1, 12))
def test_belady_keeps_to_its_rule(asked: list[Prompt], size: int, horizon: int | None) -> None:
    found = belady_hits(find_reuse(accesses_of(asked)), size, horizon)
    if horizon is not None:
        assert found.tolist() == plain_belady(asked, size, horizon)
    else:  # what is never used again goes in any order
        assert found.tolist() == plain_belady(asked, size, len(asked))


def best_possible(asked: list[Prompt], size: int) -> int:
    """The most hits of any sequence of evictions of leaves, by trying them all."""
    best = {frozenset[int](): 0}
    parent = {block: prompt[d - 1] if d else -1 for prompt in asked for d, block in enumerate(prompt)}
    for prompt in asked:
        after: dict[frozenset[int], int] = {}
        for held, hits in best.items():
            found = next((d for d, block in enumerate(prompt) if block not in held), len(prompt))
            kept = frozenset(prompt[:size])
            rest = [held | kept]
            seen = set(rest)
            while rest:
                state = rest.pop()
                if len(state) <= size:
                    after[state] = max(after.get(state, 0), hits + found)
                    continue
                for block in state - kept:
                    fewer = state - {block}
                    if block not in {parent[other] for other in state} and fewer not in seen:
                        seen.add(fewer)
                        rest.append(fewer)
        best = after
    return max(best.values())


@given(asked=prompts(longest=3, most=8, kinds=2), size=st.integers(1, 6))
def test_nothing_finds_more_than_belady(asked: list[Prompt], size: int) -> None:
    assert belady_hits(find_reuse(accesses_of(asked)), size).sum() == best_possible(asked, size)


@pytest.mark.parametrize("name", PARTS["eviction"].builtin)
@given(asked=prompts(), size=st.integers(1, 20))
def test_no_policy_finds_more_than_belady_nor_than_there_is(name: str, asked: list[Prompt], size: int) -> None:
    accesses = accesses_of(asked)
    reuse = find_reuse(accesses)
    hits = replay_hits(accesses, build("eviction", name, {}), size)
    assert hits.sum() <= belady_hits(reuse, size).sum()
    assert (hits <= lru_hits(reuse, [accesses.distinct])[0]).all()
    enough = replay_hits(accesses, build("eviction", name, {}), accesses.distinct)
    assert enough.tolist() == lru_hits(reuse, [accesses.distinct])[0].tolist()

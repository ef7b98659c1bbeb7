"""Whatever the policy: only released leaves go, one by one goes as all at once, and the same twice."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.cache.accesses import Reader
from policies.eviction import Eviction, QueuedEviction
from policies.registry import PARTS, build
from policies.views import CacheNode, RequestView
from runtime.scheduler.prefix import Node, RadixCache

POLICIES = tuple(PARTS["eviction"].builtin)
IN_FLIGHT = 3
Log = list[tuple[int, list[int]]]


class Witness(Eviction):
    """Passes everything on to a policy, and looks at each victim."""

    def __init__(self, policy: Eviction) -> None:
        self.policy = policy
        self.free: dict[int, CacheNode] = {}

    def released(self, node: CacheNode) -> None:
        self.free[node.serial] = node
        self.policy.released(node)

    def pinned(self, node: CacheNode) -> None:
        self.free.pop(node.serial, None)
        self.policy.pinned(node)

    def removed(self, node: CacheNode) -> None:
        del self.free[node.serial]
        self.policy.removed(node)

    def used(self, node: CacheNode, request: RequestView) -> None:
        self.policy.used(node, request)

    def split(self, upper: CacheNode, lower: CacheNode) -> None:
        self.policy.split(upper, lower)

    def tick(self, now_s: float) -> None:
        self.policy.tick(now_s)

    def victim(self) -> CacheNode:
        node = self.policy.victim()
        assert self.policy.victim() is node, "asking twice changes nothing"
        assert self.free.get(node.serial) is node, "not released"
        assert node.is_leaf
        assert not node.locks
        return node


class Reporting(RadixCache):
    """A tree that reports splits, whether or not the one of the server does."""

    def _split(self, node: Node, at: int) -> Node:
        upper = super()._split(node, at)
        self._eviction.split(upper, node)
        return upper


@st.composite
def prompts(draw: st.DrawFn) -> list[tuple[int, ...]]:
    """Prompts that share prefixes and come again."""
    tokens = st.integers(1, 3)
    pool = draw(st.lists(st.lists(tokens, min_size=1, max_size=9).map(tuple), min_size=1, max_size=8))
    return [pool[at % len(pool)] for at in draw(st.lists(st.integers(0, 7), min_size=1, max_size=40))]


def drive(
    cache: RadixCache, asked: list[tuple[int, ...]], moves: list[int], page_size: int, pages: int, *, one_by_one: bool
) -> Log:
    """Requests come and go, up to three at a time; returns what each found and what was evicted for it."""
    free, log = list(range(pages)), []
    flying: list[Node | None] = []

    def evict(count: int) -> list[int]:
        parts = [1] * count if one_by_one else [count]
        return [page for part in parts for page in cache.evict(part).tolist()]

    for now, (prompt, move) in enumerate(zip(asked, itertools.cycle(moves), strict=False)):
        while len(flying) >= IN_FLIGHT or (flying and move % 2):
            cache.unlock(flying.pop(move % len(flying)))
            move //= 2
        cache._eviction.tick(float(now))
        tokens = np.repeat(np.array(prompt, np.int32), page_size)
        match = cache.match(tokens)
        reader = Reader(now, priority=move % 3, session_id=len(prompt))
        node, _ = cache.lock(match, reader)
        rest = tokens[match.tokens :][: (len(free) + cache.evictable_pages) * page_size]
        missing = len(rest) // page_size - len(free)
        gone = evict(missing) if missing > 0 else []
        free += gone
        if len(rest):
            mine = np.array([free.pop(0) for _ in range(len(rest) // page_size)], np.int32)
            node, duplicates = cache.insert(node, rest, mine, reader)
            free += duplicates.tolist()
        flying.append(node)
        log.append((match.tokens, gone))
        check_sizes(cache)
    for node in flying:
        cache.unlock(node)
    log.append((0, evict(cache.pages)))
    assert not cache.root.children
    assert cache.evictable_pages == cache.pages == 0
    return log


def check_sizes(cache: RadixCache) -> None:
    """Where the tree reports splits, a policy with queues knows what is evictable."""
    policy = cache._eviction.policy if isinstance(cache._eviction, Witness) else cache._eviction
    if isinstance(cache, Reporting) and isinstance(policy, QueuedEviction):
        policy._settle()
        assert sum(policy.sizes) == cache.evictable_pages


@pytest.mark.parametrize("name", POLICIES)
@given(
    asked=prompts(),
    moves=st.lists(st.integers(0, 63), min_size=1, max_size=12),
    page_size=st.integers(1, 3),
    pages=st.integers(1, 20),
    tree=st.sampled_from([RadixCache, Reporting]),
)
def test_released_leaves_go_and_counting_makes_no_difference(
    name: str, asked: list[tuple[int, ...]], moves: list[int], page_size: int, pages: int, tree: type[RadixCache]
) -> None:
    logs = [
        drive(tree(page_size, Witness(build("eviction", name, {}))), asked, moves, page_size, pages, one_by_one=single)
        for single in (False, True, False)
    ]
    assert logs[0] == logs[1], "one by one is not as all at once"
    assert logs[0] == logs[2], "not the same twice"

"""The radix cache against a set of prefixes: what is cached, what is pinned, and what may go."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.cache.accesses import Reader
from policies.eviction import Eviction, Fifo, Lfu, Lru, RandomEviction
from policies.views import CacheNode, RequestView
from runtime.scheduler.pages import PagePool
from runtime.scheduler.prefix import Match, NoPrefixCache, RadixCache
from tests.core.own_policies import MostRecentlyUsed

EVICTIONS: list[Callable[[], Eviction]] = [Lru, Lfu, Fifo, RandomEviction, MostRecentlyUsed]
ANYONE = Reader(0)
Prefix = tuple[int, ...]


def ids(*tokens: int) -> npt.NDArray[np.int32]:
    return np.array(tokens, np.int32)


def bring(cache: RadixCache, tokens: npt.NDArray[np.int32], first_page: int) -> list[int]:
    """One request from match to unlock, with consecutive new pages; returns the duplicates."""
    match = cache.match(tokens)
    node, _ = cache.lock(match, ANYONE)
    size = cache._page_bytes // 4
    count = (len(tokens) - match.tokens) // size
    pages = np.arange(first_page, first_page + count, dtype=np.int32)
    node, duplicates = cache.insert(node, tokens[match.tokens :], pages, ANYONE)
    cache.unlock(node)
    return [int(page) for page in duplicates]


@dataclass
class Model:
    """What should be in a cache: pages by the prefix that they end, and how many readers lock each."""

    page_size: int
    pages: dict[Prefix, int]
    locks: dict[Prefix, int]

    def prefixes(self, tokens: Prefix) -> list[Prefix]:
        """Whole pages only."""
        return [tokens[:end] for end in range(self.page_size, len(tokens) + 1, self.page_size)]

    def match(self, tokens: Prefix) -> int:
        return sum(prefix in self.pages for prefix in self.prefixes(tokens)) * self.page_size

    def lock(self, tokens: Prefix, by: int) -> None:
        for prefix in self.prefixes(tokens):
            self.locks[prefix] = self.locks.get(prefix, 0) + by

    def evictable(self) -> int:
        return sum(not self.locks.get(prefix) for prefix in self.pages)

    def gone(self, page: int) -> None:
        prefix = next(prefix for prefix, held in self.pages.items() if held == page)
        del self.pages[prefix]
        assert not self.locks.get(prefix), "a locked page was evicted"
        longer = [other for other in self.pages if other[: len(prefix)] == prefix]
        assert not longer, "a page was evicted before those behind it"


@given(st.data(), st.sampled_from([1, 2, 4]), st.sampled_from(EVICTIONS))
def test_it_caches_what_a_set_of_prefixes_would(
    data: st.DataObject, page_size: int, eviction: Callable[[], Eviction]
) -> None:
    """Requests match, lock, insert what they lack (all of it, late) and leave in any order, between evictions."""
    pool, cache = PagePool(24), RadixCache(page_size, eviction())
    model = Model(page_size, {}, {})
    reading: list[tuple[Prefix, object]] = []
    prompts = st.lists(st.integers(0, 1), max_size=12).map(tuple)
    for _ in range(data.draw(st.integers(1, 25))):
        move = data.draw(st.sampled_from(["bring", "bring", "stay", "leave", "evict"]))
        if move == "leave" and reading:
            tokens, node = reading.pop(data.draw(st.integers(0, len(reading) - 1)))
            cache.unlock(node)  # type: ignore[arg-type]
            model.lock(tokens, -1)
        elif move == "evict":
            before = cache.evictable_pages
            evicted = cache.evict(data.draw(st.integers(0, before)))
            for page in evicted.tolist():
                model.gone(page)
            pool.give(evicted)
            assert cache.evictable_pages == before - len(evicted)
        elif move in ("bring", "stay"):
            tokens = data.draw(prompts)
            match = cache.match(ids(*tokens))
            assert match.tokens == model.match(tokens)
            pinned = cache.newly_pinned(match)
            evictable = cache.evictable_pages
            # Part of the match may be all that a request uses, so that it brings pages that are there already.
            held = tokens[: data.draw(st.integers(0, match.tokens // page_size)) * page_size]
            if len(held) < match.tokens:
                match = cache.match(ids(*held))
                pinned = cache.newly_pinned(match)
            node, pages = cache.lock(match, ANYONE)
            assert cache.evictable_pages == evictable - pinned
            assert pages.tolist() == [model.pages[prefix] for prefix in model.prefixes(held)]
            model.lock(held, 1)
            count = min((len(tokens) - len(held)) // page_size, pool.free)
            tokens = tokens[: len(held) + count * page_size]
            rest = ids(*tokens[len(held) :])
            known = [prefix in model.pages for prefix in model.prefixes(tokens)[len(held) // page_size :]]
            assert cache.continues(node, rest) == (bool(known) and known[0])
            new = pool.take(count)
            node, duplicates = cache.insert(node, rest, new, ANYONE)
            assert duplicates.tolist() == new[: sum(known)].tolist()
            pool.give(duplicates)
            for prefix, page in zip(model.prefixes(tokens)[len(held) // page_size :], new.tolist(), strict=True):
                model.pages.setdefault(prefix, page)
            model.lock(held, -1)
            model.lock(tokens, 1)
            reading.append((tokens, node))
            if move == "bring":
                tokens, node_ = reading.pop()
                cache.unlock(node_)  # type: ignore[arg-type]
                model.lock(tokens, -1)
        assert cache.pages == len(model.pages) == 24 - pool.free
        assert cache.evictable_pages == model.evictable()


@given(st.lists(st.lists(st.integers(0, 1), min_size=1, max_size=10), max_size=8), st.sampled_from(EVICTIONS[:4]))
def test_many_evicted_at_once_are_the_same_as_one_by_one(
    prompts: list[list[int]], eviction: Callable[[], Eviction]
) -> None:
    together, single = RadixCache(1, eviction()), RadixCache(1, eviction())
    for index, prompt in enumerate(prompts):
        for cache in (together, single):
            bring(cache, ids(*prompt), 10 * index)
    count = together.evictable_pages
    assert together.evict(count).tolist() == [page for _ in range(count) for page in single.evict(1).tolist()]


def test_matching_changes_nothing() -> None:
    """Not even the order of eviction, and no edge is split."""
    cache = RadixCache(1, Lru())
    bring(cache, ids(1, 2, 3), 0)
    bring(cache, ids(4, 5), 10)
    for _ in range(3):
        assert cache.match(ids(1, 2, 9)).tokens == 2
    assert [len(child.key) // 4 for child in cache.root.children.values()] == [3, 2]
    assert cache.evict(1).tolist() == [2]


def test_a_match_is_of_whole_pages() -> None:
    cache = RadixCache(4, Lru())
    bring(cache, ids(1, 2, 3, 4, 5, 6, 7, 8, 9), 0)  # the ninth fills no page
    assert cache.pages == 2
    assert cache.match(ids(1, 2, 3, 4, 5, 6, 7)).tokens == 4
    assert cache.match(ids(1, 2, 3)).tokens == 0
    assert cache.match(ids(1, 2, 3, 9, 5, 6, 7, 8)).tokens == 0


def test_equal_pages_at_other_places_are_not_shared() -> None:
    """KV of a token depends on all before it."""
    cache = RadixCache(2, Lru())
    bring(cache, ids(1, 2, 3, 4), 0)
    assert cache.match(ids(3, 4)).tokens == 0
    assert cache.match(ids(1, 2, 1, 2)).tokens == 2


def test_a_locked_prefix_survives_a_full_eviction() -> None:
    cache = RadixCache(1, Lru())
    bring(cache, ids(1, 2, 3, 4), 0)
    node, pages = cache.lock(cache.match(ids(1, 2)), ANYONE)
    assert pages.tolist() == [0, 1]
    assert sorted(cache.evict(cache.evictable_pages).tolist()) == [2, 3]
    assert cache.match(ids(1, 2, 3)).tokens == 2
    cache.unlock(node)
    assert cache.evict(2).tolist() == [1, 0]
    assert cache.match(ids(1, 2)).tokens == 0


def test_what_another_brought_meanwhile_stays_the_others() -> None:
    """Two sequences in flight compute the same prompt: the cache keeps the first one's pages."""
    cache = RadixCache(1, Lru())
    first, _ = cache.lock(cache.match(ids(7, 8)), ANYONE)
    second, _ = cache.lock(cache.match(ids(7, 8, 9)), ANYONE)
    first, duplicates = cache.insert(first, ids(7, 8), np.array([0, 1], np.int32), ANYONE)
    assert duplicates.tolist() == []
    second, duplicates = cache.insert(second, ids(7, 8, 9), np.array([2, 3, 4], np.int32), ANYONE)
    assert duplicates.tolist() == [2, 3]
    cache.unlock(first)
    assert cache.evictable_pages == 0
    cache.unlock(second)
    assert cache.evict(3).tolist() == [4, 1, 0]


def test_more_than_may_go_is_refused() -> None:
    cache = RadixCache(1, Lru())
    bring(cache, ids(1, 2), 0)
    cache.lock(cache.match(ids(1)), ANYONE)
    with pytest.raises(ValueError, match="2 pages to evict of 1 evictable ones"):
        cache.evict(2)


def test_a_policy_that_names_a_parent_is_caught() -> None:
    class Parents(Lru):
        def victim(self) -> object:  # type: ignore[override]
            return list(self._nodes)[-1]

    cache = RadixCache(1, Parents())
    bring(cache, ids(1, 2), 0)
    bring(cache, ids(1, 3), 10)
    with pytest.raises(ValueError, match="not a released leaf"):
        cache.evict(1)


def test_no_prefix_cache_keeps_nothing() -> None:
    cache = NoPrefixCache()
    node, pages = cache.lock(cache.match(ids(1, 2)), ANYONE)
    assert (node, len(pages)) == (None, 0)
    assert cache.insert(node, ids(1, 2), np.array([0, 1], np.int32), ANYONE)[0] is None
    assert cache.match(ids(1, 2)) == Match(tokens=0, node=None, inside=0)
    assert len(cache.evict(0)) == 0
    with pytest.raises(ValueError, match="without a prefix cache"):
        cache.evict(1)


def test_the_policy_is_told_who_uses_which_part_of_a_path() -> None:
    told: list[tuple[int, list[int]]] = []

    class Told(Lru):
        def used(self, node: CacheNode, request: RequestView) -> None:
            assert node.locks
            assert node.hits
            told.append((request.request_id, np.frombuffer(node.key, np.int32).tolist()))

    cache = RadixCache(1, Told())
    first, _ = cache.lock(cache.match(ids(1, 2, 3)), Reader(1))
    first, _ = cache.insert(first, ids(1, 2), np.array([0, 1], np.int32), Reader(1))
    first, _ = cache.insert(first, ids(3, 4), np.array([2, 3], np.int32), Reader(1))
    cache.unlock(first)
    assert told == [(1, [1, 2]), (1, [3, 4])], "what it brought, as it came"
    told.clear()
    cache.lock(cache.match(ids(1, 2, 3, 9)), Reader(2))
    assert told == [(2, [3]), (2, [1, 2])], "what it found, cut to what it uses"
    told.clear()
    third, _ = cache.lock(cache.match(ids(1, 2)), Reader(3))
    third, _ = cache.insert(third, ids(3, 9), np.array([7, 8], np.int32), Reader(3))
    assert told == [(3, [1, 2]), (3, [3]), (3, [9])], "what another brought meanwhile counts too"

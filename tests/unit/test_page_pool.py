"""The page pool: a ring that gives back what it was given, first freed first taken."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.scheduler.pages import PagePool


@given(st.integers(1, 12), st.lists(st.tuples(st.booleans(), st.integers(0, 12)), max_size=60))
def test_it_is_a_queue(pages: int, moves: list[tuple[bool, int]]) -> None:
    pool, free, held = PagePool(pages), deque(range(pages)), deque[int]()
    for take, count in moves:
        if take:
            count = min(count, len(free))
            taken = [free.popleft() for _ in range(count)]
            assert pool.take(count).tolist() == taken
            held.extend(taken)
        else:
            given_back = [held.popleft() for _ in range(min(count, len(held)))]
            pool.give(np.array(given_back, np.int32))
            free.extend(given_back)
        assert pool.free == len(free)
        assert pool.free_pages().tolist() == list(free)


@given(st.integers(1, 20), st.integers(0, 20), st.integers(0, 20))
def test_many_at_once_are_the_same_pages_as_one_by_one(pages: int, before: int, count: int) -> None:
    before, count = min(before, pages), min(count, pages)
    together, single = PagePool(pages), PagePool(pages)
    for pool in (together, single):
        pool.give(pool.take(before))  # so that the ring wraps
    assert together.take(count).tolist() == [pool_page for _ in range(count) for pool_page in single.take(1).tolist()]


def test_pages_taken_stay_what_they_were_when_others_come_back() -> None:
    pool = PagePool(2)
    taken = pool.take(2)
    pool.give(np.array([1], np.int32))
    assert taken.tolist() == [0, 1]


def test_more_than_there_are_is_refused() -> None:
    pool = PagePool(3)
    pool.take(2)
    with pytest.raises(ValueError, match="2 pages taken of 1 free ones"):
        pool.take(2)
    with pytest.raises(ValueError, match="3 pages given back to a pool that lacks 2"):
        pool.give(np.arange(3, dtype=np.int32))
    assert pool.free_pages().tolist() == [2]

"""The heap that cleans itself lazily, against a sorted list."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from policies.lazy_heap import MOST_DEAD, LazyHeap

RANKS = st.integers(-3, 3)
RANK_PAIRS = st.tuples(RANKS, RANKS)
KEYS = st.integers(0, 9)


def moves(ranks: st.SearchStrategy[object]) -> st.SearchStrategy[list[tuple[int, object]]]:
    """A key with the rank that it gets, or None where it leaves, there or not."""
    return st.lists(st.tuples(KEYS, st.none() | ranks), max_size=80)


@given(moves(RANKS) | moves(RANK_PAIRS))
def test_first_is_the_smallest_rank_then_key_whoever_left_or_was_ranked_again(
    moved: list[tuple[int, object]],
) -> None:
    heap, held = LazyHeap[str](), dict[int, object]()
    for key, rank in moved:
        if rank is None:
            heap.discard(key)
            held.pop(key, None)
        else:
            heap.push(key, rank, f"{key} as {rank}")
            held[key] = rank
        ordered = sorted((rank, key) for key, rank in held.items())
        assert len(heap) == len(ordered)
        assert heap.first() == (f"{ordered[0][1]} as {ordered[0][0]}" if ordered else None)
    left = []
    while (first := heap.first()) is not None:
        left.append(first)
        heap.discard(int(first.split()[0]))
    assert left == [f"{key} as {rank}" for rank, key in sorted((rank, key) for key, rank in held.items())]


@given(
    st.lists(st.tuples(st.integers(1, 4000), st.integers(0, 4000)), min_size=1, max_size=4),
    st.sampled_from([1, -1]),
    st.booleans(),
)
def test_it_never_grows_beyond_twice_what_is_in_it_and_a_constant(
    waves: list[tuple[int, int]], direction: int, same_keys: bool
) -> None:
    """In waves: so many come, ranked behind or before all others, and so many leave, the last first."""
    heap = LazyHeap[int]()
    held: dict[int, None] = {}
    clock = 0
    for coming, leaving in waves:
        for at in range(coming):
            clock += 1
            key = at if same_keys else clock
            heap.push(key, direction * clock, key)
            held[key] = None
            assert len(heap._heap) <= 2 * len(held) + MOST_DEAD
        for _ in range(min(leaving, len(held))):
            key, _ = held.popitem()
            heap.discard(key)
            assert len(heap._heap) <= 2 * len(held) + MOST_DEAD
    assert len(heap) == len(held)


def test_an_item_that_left_is_let_go() -> None:
    heap = LazyHeap[int]()
    heap.push(1, 0, 1)
    heap.push(2, 5, 2)
    heap.discard(2)
    heap.discard(2)
    assert list(heap._valid) == [1]

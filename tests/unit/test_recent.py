"""Policies remember the sessions heard of last, and no more than so many."""

from __future__ import annotations

from collections import OrderedDict

from hypothesis import given
from hypothesis import strategies as st

from policies.recent import Recent


@given(st.lists(st.tuples(st.integers(0, 9), st.integers()), max_size=60), st.integers(1, 5))
def test_those_written_last_are_there(writes: list[tuple[int, int]], most: int) -> None:
    recent, all_of_them = Recent[int](most), OrderedDict[int, int]()
    for key, value in writes:
        recent[key] = value
        all_of_them[key] = value
        all_of_them.move_to_end(key)
        assert list(recent.items()) == list(all_of_them.items())[-most:]

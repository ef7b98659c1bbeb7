"""Stateless random numbers: many at once are those one by one."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from policies.hashing import mix, mix_arrays

WORDS = st.integers(0, (1 << 64) - 1)


@given(st.integers(-(1 << 63), (1 << 63) - 1), st.lists(st.tuples(WORDS, WORDS, WORDS), min_size=1, max_size=5))
def test_arrays_are_mixed_as_integers_are(seed: int, names: list[tuple[int, int, int]]) -> None:
    columns = [np.array(column, np.uint64) for column in zip(*names, strict=True)]
    assert mix_arrays(seed, *columns).tolist() == [mix(seed, *row) for row in names]

"""How many parts FlashInfer is to cut a decode's KV into."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.scheduler.decode_split import MOST_PARTS, decode_parts, decodes_on_tensor_cores, parts_at_once

AT_ONCE = st.integers(1, 300)


@pytest.mark.parametrize(("kv_heads", "at_once"), [(8, 33), (4, 66), (3, 88), (1, 264), (1000, 1)])
def test_two_blocks_of_a_processor_run_at_once(kv_heads: int, at_once: int) -> None:
    assert parts_at_once(132, kv_heads) == at_once


@pytest.mark.parametrize(("heads", "kv_heads", "tensor_cores"), [(32, 8, True), (16, 8, False), (16, 2, True)])
def test_few_query_heads_of_a_kv_head_would_idle_tensor_cores(heads: int, kv_heads: int, *, tensor_cores: bool) -> None:
    assert decodes_on_tensor_cores(heads, kv_heads) == tensor_cores


@pytest.mark.parametrize(
    ("sequences", "parts"), [(1, 33), (24, 33), (25, 49), (32, 63), (40, 73), (64, 97), (256, 289), (1000, 1016)]
)
def test_parts_of_a_decode_on_an_h100(sequences: int, parts: int) -> None:
    assert decode_parts(sequences, 33) == parts


@given(st.integers(1, 2000), AT_ONCE)
def test_no_sequence_goes_without_a_part(sequences: int, at_once: int) -> None:
    assert decode_parts(sequences, at_once) >= sequences
    assert decode_parts(sequences, at_once) <= max(MOST_PARTS, sequences)


@given(st.integers(1, 2000), AT_ONCE)
def test_equal_contexts_stay_whole_once_they_fill_the_gpu(sequences: int, at_once: int) -> None:
    """As many parts as two of each would split all of them, for nothing."""
    if 4 * sequences > 3 * at_once:
        assert decode_parts(sequences, at_once) < 2 * sequences
    else:
        assert decode_parts(sequences, at_once) == at_once

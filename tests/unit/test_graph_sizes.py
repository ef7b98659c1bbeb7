"""Which steps replay a CUDA graph, and what padding makes of them: the simulator's view is the engine's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.simulator.engine import EngineOptions, Shapes
from runtime.scheduler.graph_sizes import CHUNKED_SIZES, LONGEST_CHUNKED, MOST_CHUNKS, chunked_size, ladder
from tests.tiny.steps import batch_of

MOST = CHUNKED_SIZES[-1]


@given(st.integers(1, 40), st.integers(1, 2 * MOST), st.integers(1, 2 * LONGEST_CHUNKED), st.integers(0, 300))
def test_a_step_gets_the_least_graph_that_holds_it(chunks: int, tokens: int, longest: int, decodes: int) -> None:
    size = chunked_size(chunks, tokens, longest, decodes)
    if size:
        assert size in CHUNKED_SIZES
        assert size >= tokens + decodes
        assert not any(tokens + decodes <= other < size for other in CHUNKED_SIZES)
    assert (size > 0) == (tokens + decodes <= MOST and chunks <= MOST_CHUNKS and longest <= LONGEST_CHUNKED)


def test_ladder_ends_at_the_largest() -> None:
    assert ladder(1) == [1]
    assert ladder(20) == [1, 2, 4, 8, 16, 20]
    assert ladder(24) == [1, 2, 4, 8, 16, 24]
    assert list(CHUNKED_SIZES) == sorted(set(CHUNKED_SIZES))


@pytest.mark.parametrize(
    ("chunks", "decodes", "rows", "graph"),
    [
        ([(0, 10)], [], 16, True),
        ([(64, 100), (0, 20)], [5, 900], 128, True),
        ([(0, MOST)], [], MOST, True),
        ([(0, MOST)], [5], MOST + 1, False),
        ([(LONGEST_CHUNKED, 1)], [], 1, False),
        ([(0, 1)] * (MOST_CHUNKS + 1), [], MOST_CHUNKS + 1, False),
        ([], [7, 8, 9], 4, True),
    ],
)
def test_the_simulator_counts_the_rows_that_the_graph_computes(
    chunks: list[tuple[int, int]], decodes: list[int], rows: int, graph: bool
) -> None:
    batch = batch_of(chunks, decodes)
    shape, replayed = Shapes(EngineOptions())(batch)
    assert replayed == graph
    assert shape.prefill_tokens + shape.decode_rows == rows
    assert shape.decode_sequences == len(decodes)
    plain, replayed = Shapes(EngineOptions(cuda_graph=False))(batch)
    assert not replayed
    assert plain.decode_rows == len(decodes)
    assert plain.prefill_pairs == shape.prefill_pairs

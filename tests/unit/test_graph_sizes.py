"""Which steps replay a CUDA graph, and what padding makes of them: the simulator's view is the engine's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.simulator.engine import EngineOptions, Shapes
from runtime.scheduler.graph_sizes import (
    CHUNKED_SIZES,
    FUSED_KV_BYTES,
    FUSED_SEQUENCES,
    LONGEST_CHUNKED,
    MOST_CHUNKS,
    chunked_size,
    decodes_fused,
    ladder,
)
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


def padded(sequences: int, largest: int) -> int:
    return next(size for size in ladder(largest) if size >= sequences)


@given(st.integers(1, 40), st.integers(0, 500), st.integers(1, 200_000), st.sampled_from([512, 4096, 8192]))
def test_a_small_decode_of_little_kv_is_fused_padded_or_not(
    sequences: int, more: int, context: int, token_bytes: int
) -> None:
    fused = decodes_fused(sequences, context, token_bytes)
    assert fused == (sequences <= FUSED_SEQUENCES and context * token_bytes <= FUSED_KV_BYTES)
    assert decodes_fused(padded(sequences, sequences + more), context, token_bytes) == fused
    steps = np.arange(context, context + 5 * sequences, sequences)
    each = [decodes_fused(sequences, tokens, token_bytes) for tokens in steps.tolist()]
    assert decodes_fused(sequences, steps, token_bytes).tolist() == each
    assert each == sorted(each, reverse=True)  # a context only grows out of it


def test_each_gpu_counts_its_own_kv() -> None:
    """Qwen3-8B has 4,096 bytes of KV a layer and token: what is much for one GPU is little for each of two."""
    most = FUSED_KV_BYTES // 4096
    assert decodes_fused(8, most, 4096)
    assert not decodes_fused(8, most + 1, 4096)
    assert decodes_fused(8, 2 * most, 2048)


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
    shape, replayed = Shapes(EngineOptions(), 0.0)(batch)
    assert replayed == graph
    assert shape.prefill_tokens + shape.decode_rows == rows
    assert shape.decode_sequences == len(decodes)
    plain, replayed = Shapes(EngineOptions(cuda_graph=False), 0.0)(batch)
    assert not replayed
    assert plain.decode_rows == len(decodes)
    assert plain.prefill_pairs == shape.prefill_pairs


@pytest.mark.parametrize("chunks", [[], [(0, 10)]], ids=["decodes", "beside a chunk"])
def test_what_several_sequences_read_counts_for_a_part(chunks: list[tuple[int, int]]) -> None:
    batch = batch_of(chunks, [299, 399])
    batch.shared_tokens = 256
    shape, _ = Shapes(EngineOptions(), 0.25)(batch)
    assert (shape.decode_context, shape.decode_max_context) == (300 + 400 - 64, 400)

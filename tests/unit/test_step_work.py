"""How much work a step is: attention takes as long as its slowest thread block."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.cost.shape import StepShape
from harness.cost.work import KINDS, StepWork
from runtime.scheduler.graph_sizes import chunked_size
from tests.cost.steps import step
from tests.cost.synthetic import decode, mixed, roofline

LIMIT = 32 << 20  # bytes: 8,192 tokens of 8 KV heads with 128 numbers of 2 bytes
WORK = StepWork(roofline(), chunk_graphs=True, fused_kv_bytes=LIMIT)  # Qwen3-8B on one H100
SMALL = StepWork(roofline("qwen3_0_6b"), chunk_graphs=True, fused_kv_bytes=LIMIT)  # two query heads of a KV head
AT_ONCE = 165  # sequences of it: ten blocks on each of 132 processors, over 8 KV heads


def of(shape):
    return dict(zip(KINDS, WORK.of(shape), strict=True))


def test_few_queries_take_as_long_as_enough_to_fill_the_gpu():
    few, enough, many = (of(mixed(1, tokens, 16384))["prefill_pairs"] for tokens in (16, 500, 2048))
    assert few == pytest.approx(132 * 128 / 32 * (16384 + 16))
    assert enough == pytest.approx(few, rel=0.05)
    assert many == 2048 * 16384 + 2048 * 2049 / 2


def test_several_short_contexts_do_not_take_as_long_as_one_of_them_all():
    assert of(mixed(8, 16, 512))["captured_pairs"] == of(mixed(1, 16, 512))["captured_pairs"]
    assert of(mixed(1, 16, 8 * 512))["captured_pairs"] > 7 * of(mixed(1, 16, 512))["captured_pairs"]


def test_a_decode_beside_a_captured_chunk_is_not_split():
    beside = of(mixed(1, 16, 0, 1, 4096))
    assert beside["captured_pairs"] == pytest.approx(132 * 128 / 32 * 4096 / 2), "but takes half of a chunk's time"
    assert beside["decode_kv"] == 4096


@given(st.integers(1, 40), st.integers(1, 2000), st.integers(0, 10_000), st.integers(0, 200))
def test_chunks_are_captured_when_the_engine_has_a_graph_for_them(chunks, tokens, before, decodes):
    amounts = of(mixed(chunks, tokens, before, decodes, 100))
    graph = chunked_size(chunks, chunks * tokens, tokens + before, decodes) > 0
    assert (amounts["captured_pairs"] > 0) == graph
    assert (amounts["prefill_pairs"] > 0) != graph
    eager = StepWork(roofline(), chunk_graphs=False, fused_kv_bytes=0).of(mixed(chunks, tokens, before, decodes, 100))
    assert eager[KINDS.index("captured_pairs")] == 0


@pytest.mark.parametrize("work", [WORK, SMALL], ids=["with tensor cores", "without"])
@pytest.mark.parametrize("count", [1, 4, 16, 32, 64, 128])
def test_decodes_of_equal_contexts_count_as_they_are(count, work):
    """But for what is left to the last of their parts."""
    assert 1000 * count <= work.decode_kv(count, count, 1000 * count, 1000) <= 1040 * count


@pytest.mark.parametrize(
    ("count", "context", "fused"), [(8, 1024, True), (8, 1025, False), (9, 100, False), (1, 8192, True)]
)
def test_small_decodes_of_little_kv_attend_in_one_kernel(count, context, fused):
    amounts = of(decode(count, context))
    assert (amounts["fused_kv"] > 0, amounts["decode_kv"] > 0) == (fused, not fused)


def test_no_chunk_is_beside_a_decode_in_one_kernel():
    assert of(mixed(1, 16, 0, 1, 100))["fused_kv"] == 0


@given(st.integers(1, 300), st.integers(1, 2000), st.integers(0, 40_000))
def test_on_tensor_cores_no_context_is_left_alone(count, others, more):
    """Measured on an H100: 64 sequences, the longest 1.2 to 4 times the mean, within 1 % by the tokens they read."""
    tokens = others * count + more
    assert WORK.decode_kv(count, count, tokens, others + more) == tokens


def test_one_long_context_is_left_alone_once_it_cannot_be_split():
    """Measured on an H100, one context of 40,960 beside short ones: 3.4 ms for 64 sequences, 51 for 256."""
    counts = np.array((64, 120, AT_ONCE - 1, AT_ONCE, 200))
    plain = 40_960 + 128 * (counts - 1)
    kv = [SMALL.decode_kv(count, count, tokens, 40_960) for count, tokens in zip(counts, plain, strict=True)]
    extra = np.array(kv) - plain
    assert extra[0] < 0.05 * plain[0]
    assert extra[1] < 0.5 * plain[1]
    assert extra[3] > 1.5 * extra[2]
    assert extra[4] == pytest.approx(extra[3], rel=0.1)
    assert kv[4] > 15 * plain[4]


def test_an_empty_row_of_a_graph_takes_a_block():
    steps = ((120, 120), (AT_ONCE - 9, AT_ONCE), (AT_ONCE, AT_ONCE))
    fills, padded, full = (SMALL.decode_kv(count, rows, 60_000, 40_960) for count, rows in steps)
    assert padded == pytest.approx(full, rel=0.05)
    assert padded > 3 * fills


@given(st.integers(1, 64), st.integers(1, 4096), st.integers(0, 40_000))
def test_without_processors_there_are_no_blocks_to_wait_for(count, others, more):
    tokens = others * count + more
    cpu = StepWork(roofline("tiny", "cpu"), chunk_graphs=False, fused_kv_bytes=0)
    assert cpu.decode_kv(count, count, tokens, others + more) == tokens


@given(st.integers(1, 300), st.lists(st.integers(1, 40_000), min_size=1, max_size=60), st.integers(1, 40_000))
def test_more_to_read_never_counts_less(more, contexts, another):
    count, total, longest = len(contexts), sum(contexts), max(contexts)
    known = SMALL.decode_kv(count, count, total, longest)
    assert known >= total
    rounding = 1 - 1e-12
    assert SMALL.decode_kv(count, count, total + more, longest + more) >= known * rounding
    assert SMALL.decode_kv(count + 1, count + 1, total + another, max(longest, another)) >= known * rounding
    if count > 1 and min(contexts) + more <= longest:
        assert SMALL.decode_kv(count, count, total + more, longest) >= known * rounding


@given(st.lists(st.tuples(st.integers(1, 3000), st.integers(0, 12_000)), max_size=3), st.lists(st.integers(1, 5000)))
def test_the_longest_chunk_is_what_is_walked(chunks, contexts):
    shape = step((chunks, contexts))
    assert shape.prefill_max_context * len(chunks) >= shape.prefill_context
    unknown = StepShape(**{name: getattr(shape, name) for name in StepShape.__slots__ if name != "prefill_max_context"})
    if len(chunks) == 1:
        assert WORK.of(unknown) == WORK.of(shape)

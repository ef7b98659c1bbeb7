"""Triton's attention is the reference's: on the GPU where there is one, else in Triton's interpreter."""

# ruff: noqa: E402 (what needs Triton is imported once it is known to be there)
from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from tests.tiny.interpreter import DEVICE, DTYPE, ON_GPU

# isort: split
from runtime.attention.base import AttentionMetadata
from runtime.attention.split import SplitAttention
from runtime.attention.torch import TorchAttention
from runtime.attention.triton import TritonAttention, split_kv
from runtime.engine.chunk_graphs import chunked_limits
from runtime.engine.torch_engine import TorchEngine
from runtime.kernels.fp8 import FP8
from runtime.scheduler import SchedulerConfig
from tests.tiny.serving import Server, on_cpu, prompts

FIELDS: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "vocab_size": 101,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 1024,
    "dtype": "float32",
}


class Step:
    """A random step over a KV pool that is NaN wherever no sequence of the step has a page."""

    def __init__(
        self,
        chunks: list[tuple[int, int]],  # tokens before, tokens of the chunk
        decodes: list[int],  # tokens, the decoded one with them
        *,
        page_size: int = 16,
        heads: tuple[int, int] = (4, 2),
        head_dim: int = 32,
        kv_dtype: torch.dtype = DTYPE,
    ) -> None:
        generator = torch.Generator().manual_seed(page_size + head_dim)
        self.page_size, self.heads = page_size, heads[0]
        self.queries = np.array([count for _, count in chunks] + [1] * len(decodes), np.int64)
        self.lengths = np.array([before + count for before, count in chunks] + decodes, np.int64)
        self.prefills = len(chunks)
        columns = -(-self.lengths // page_size)
        order = np.random.default_rng(page_size).permutation(int(columns.sum()) + 3)
        self.pages = np.full((len(self.lengths), int(columns.max()) + 1), 1 << 30, np.int32)
        kv = torch.full((2, 2, len(order) * page_size, heads[1], head_dim), torch.nan)
        for row, (count, length) in enumerate(zip(columns.tolist(), self.lengths.tolist(), strict=True)):
            self.pages[row, :count], order = order[:count], order[count:]
            slots = (self.pages[row, :count, None] * page_size + np.arange(page_size)).ravel()[:length]
            kv[:, :, slots] = torch.randn(2, 2, length, heads[1], head_dim, generator=generator)
        self.kv = kv.to(kv_dtype).to(DEVICE)
        tokens = int(self.queries.sum())
        # Rotation leaves queries as a view into what stands beside keys and values.
        beside = torch.randn(tokens, heads[0] + 2 * heads[1], head_dim, generator=generator)
        self.q = beside.to(DEVICE, DTYPE)[:, : heads[0]]
        self.slots = torch.zeros(tokens, dtype=torch.int64, device=DEVICE)

    def metadata(self) -> AttentionMetadata:
        return AttentionMetadata(self.queries, self.lengths, self.pages, self.prefills, self.slots)

    def expected(self) -> torch.Tensor:
        reference = TorchAttention(self.kv.float().nan_to_num(), self.page_size)
        return reference.plan(self.metadata()).attend(1, self.q.float())

    def attention(self) -> TritonAttention:
        return TritonAttention(self.kv, self.page_size, self.heads)


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert found.dtype == DTYPE
    assert found.is_contiguous()
    error = (found.float() - expected).norm() / expected.norm()
    assert error < (1e-2 if ON_GPU else 2e-3), error  # never true of NaN


@pytest.mark.parametrize("page_size", [1, 16, 64])
@pytest.mark.parametrize(
    ("chunks", "decodes"),
    [
        ([(0, 1)], []),
        ([(0, 70), (5, 7), (130, 64), (0, 1)], []),
        ([], [1, 2, 63, 64, 65, 300]),
        ([(0, 40), (64, 3)], [1, 17, 200]),
    ],
)
def test_pages_of_any_size(page_size: int, chunks: list[tuple[int, int]], decodes: list[int]) -> None:
    step = Step(chunks, decodes, page_size=page_size)
    assert_close(step.attention().plan(step.metadata()).attend(1, step.q), step.expected())


@pytest.mark.parametrize("heads", [(1, 1), (8, 1), (6, 2), (5, 1), (32, 1), (4, 4)])
def test_any_group_of_heads(heads: tuple[int, int]) -> None:
    step = Step([(3, 41)], [9, 100], heads=heads, head_dim=16)
    assert_close(step.attention().plan(step.metadata()).attend(1, step.q), step.expected())


@pytest.mark.parametrize("head_dim", [64, 80, 96, 128, 256])
def test_any_width_of_heads(head_dim: int) -> None:
    step = Step([(3, 41)], [9, 100], head_dim=head_dim)
    assert_close(step.attention().plan(step.metadata()).attend(1, step.q), step.expected())


@pytest.mark.parametrize(("chunks", "decodes"), [([(3, 41)], [9, 100]), ([], [3, 64])])
def test_fp8_kv_is_read_as_the_numbers_it_holds(chunks: list[tuple[int, int]], decodes: list[int]) -> None:
    step = Step(chunks, decodes, kv_dtype=FP8)
    assert_close(step.attention().plan(step.metadata()).attend(1, step.q), step.expected())


@pytest.mark.parametrize("lengths", [[1, 1, 1], [200, 1, 77], [64, 65, 63]])
def test_a_graph_step_planned_anew(lengths: list[int]) -> None:
    """A plan replaces the one before in the same memory; programs beyond its items leave everything alone."""
    before, now = Step([], [300, 300, 300]), Step([], lengths)
    pool = torch.cat([before.kv, now.kv], dim=2)
    attention = TritonAttention(pool, 16, now.heads)
    offset = before.kv.shape[2] // 16
    tables = torch.full((attention.table_entries(3, now.pages.shape[1] + 20),), -1, dtype=torch.int32, device=DEVICE)
    step = attention.graph_step(3, now.slots, tables)
    step.plan(before.lengths, before.pages)
    assert_close(step.attend(1, before.q), before.expected())
    step.plan(now.lengths, now.pages + offset)
    assert_close(step.attend(1, now.q), now.expected())


@pytest.mark.parametrize("page_size", [1, 16])
@pytest.mark.parametrize(
    ("chunks", "decodes"),
    [([(0, 40), (64, 3), (0, 5)], [1, 17, 200]), ([(5, 48)], []), ([(0, 1)], [3, 70] * 7 + [1]), ([(30, 41)], [300])],
    ids=str,
)
def test_a_captured_step_with_chunks_planned_anew(
    chunks: list[tuple[int, int]], decodes: list[int], page_size: int
) -> None:
    """Chunks, a chunk of padding and decodes in tables with room for more; a plan replaces the one before."""
    size = 64
    most = chunked_limits(size, 20, page_size)
    steps = []
    for parts, singles in (([(0, 10), (100, 30)], [250] * 20), (chunks, decodes)):
        padding = size - sum(count for _, count in parts) - len(singles)
        steps.append(Step([*parts, (0, padding)] if padding else parts, singles, page_size=page_size))
    pool = torch.cat([step.kv for step in steps], dim=2)
    attention = TritonAttention(pool, page_size, steps[0].heads)
    columns = max(step.pages.shape[1] for step in steps)
    tables = torch.full((attention.chunked_entries(most, columns),), -1, dtype=torch.int32, device=DEVICE)
    captured = attention.chunked_step(most, steps[0].slots, tables)
    offset = 0
    for step in steps:
        captured.plan(step.queries, step.lengths, step.pages + offset, step.prefills)
        assert_close(captured.attend(1, step.q), step.expected())
        offset += step.kv.shape[2] // page_size


@pytest.mark.parametrize(
    ("chunks", "decodes"), [([(0, 40), (64, 3)], [1, 17, 200]), ([(5, 9)], []), ([], [3, 70])], ids=str
)
@pytest.mark.parametrize("triton_decodes", [True, False])
def test_prefill_and_decode_apart(triton_decodes: bool, chunks: list[tuple[int, int]], decodes: list[int]) -> None:
    step = Step(chunks, decodes)
    both: Any = [TorchAttention(step.kv.nan_to_num(), 16), step.attention()]
    prefill, decode = both if triton_decodes else reversed(both)
    decode.kv, decode.page_size = step.kv, 16
    assert_close(SplitAttention(prefill, decode).plan(step.metadata()).attend(1, step.q), step.expected())


@pytest.mark.skipif(ON_GPU, reason="the GPU engine has tests of its own")
def test_tokens_of_an_engine_are_the_same_by_either_backend() -> None:
    asked = prompts(3, 40, 17)
    outputs = []
    for attention in (TorchAttention, partial(TritonAttention, heads=FIELDS["num_attention_heads"])):
        server = Server(FIELDS)
        server.engine.close()
        config, table = SchedulerConfig(64, 16, 8, 512), server.scheduler.memory.table  # the server's own
        server.engine = TorchEngine(server.config, server.model, on_cpu(), config, table, attention=attention)
        outputs.append(server.greedy(asked, 4))
        server.close()
    assert outputs[0] == outputs[1]


@given(st.lists(st.integers(1, 40_000), min_size=1, max_size=64), st.integers(0, 200))
@settings(max_examples=200)
def test_kv_is_split_into_no_more_parts_than_allowed(lengths: list[int], spare: int) -> None:
    array = np.array(lengths)
    items, chunk = split_kv(array, len(lengths) + spare)
    assert items.sum() <= len(lengths) + spare
    assert ((items - 1) * chunk < array).all()  # no part is empty
    assert (items * chunk >= array).all()  # and together they hold all
    shorter = chunk - 64
    assert shorter == 0 or (-(-array // shorter)).sum() > len(lengths) + spare

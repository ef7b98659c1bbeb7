"""Steps with chunks as CUDA graphs: every size, and what is not of any, against eager steps and the reference."""

# ruff: noqa: E402 (what needs a GPU is imported once it is known to be there)
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)

from runtime.engine.cuda_engine import CudaEngine
from runtime.engine.inputs import step_inputs
from runtime.engine.torch_engine import make_engine
from runtime.scheduler import Batch, SchedulerConfig
from runtime.scheduler.graph_sizes import CHUNKED_SIZES, LONGEST_CHUNKED, MOST_CHUNKS, chunked_size
from tests.gpu.small import HALF, Small, assert_likeliest, greedy, small
from tests.tiny.serving import prompts
from tests.tiny.steps import batch_of

COUNT = 24
SHARED = prompts(200, vocab_size=8192, seed=9)[0]
ASKED = [
    *prompts(5, 70, 33, 300, 1, vocab_size=8192),
    SHARED + prompts(9, vocab_size=8192)[0],
    SHARED[:140],
    [*SHARED],
    [*SHARED],
]
PAGE_SIZE, MAX_RUNNING, ROW_TOKENS = 16, 64, 1280


@pytest.fixture(scope="module")
def model() -> Small:
    return small(4)


class Steps:
    """An engine and a page table of which every row has pages of its own, with some KV in them."""

    def __init__(self, model: Small, *, page_size: int = PAGE_SIZE, **options: Any) -> None:
        columns = ROW_TOKENS // page_size
        self.page_size = page_size
        self.table = np.random.default_rng(1).permutation(MAX_RUNNING * columns).astype(np.int32).reshape(-1, columns)
        sizes = SchedulerConfig(self.table.size, page_size, MAX_RUNNING, ROW_TOKENS)
        self.engine: Any = make_engine(model.config, model.half, HALF, sizes, self.table, **options)
        assert isinstance(self.engine, CudaEngine)
        generator = torch.Generator("cuda").manual_seed(1)
        pool = self.engine._attention.kv
        pool.copy_(torch.randn(pool.shape, generator=generator, device="cuda", dtype=torch.float32))
        pool[:, :, -page_size:] = torch.nan  # padding's page
        self.engine._last_token.copy_(torch.arange(MAX_RUNNING + 1, device="cuda") * 7)

    def batch(self, chunks: list[tuple[int, int]], decodes: list[int]) -> Batch:
        batch = batch_of(chunks, decodes)
        for row, sequence in enumerate([chunk.sequence for chunk in batch.chunks] + batch.decodes):
            sequence.row = row
            sequence.tokens[:] = prompts(len(sequence.tokens), vocab_size=8192, seed=row)[0]
        return batch

    @torch.inference_mode()
    def both(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits by the graph, and kernel by kernel over the same KV."""
        inputs, pool = step_inputs(batch, self.table, self.page_size), self.engine._attention.kv
        size = chunked_size(len(batch.chunks), len(inputs.tokens), ROW_TOKENS, len(batch.decodes))
        before = pool.clone()
        hidden, rows = self.engine._chunks.run(inputs, size)
        logits, rows = self.engine._model.logits(hidden).float(), rows.clone()
        pool.copy_(before)
        hidden, same_rows = self.engine._forward(inputs)
        assert rows.tolist() == same_rows.tolist()
        return logits, self.engine._model.logits(hidden).float()


def assert_alike(found: torch.Tensor, expected: torch.Tensor) -> None:
    error = (found - expected).norm() / expected.norm()
    assert error < 3e-2, error  # of two roundings; never true of NaN


@pytest.mark.parametrize(("kv_heads", "page_size"), [(4, 16), (4, 1), (2, 16)])
def test_every_size_computes_what_eager_steps_do(kv_heads: int, page_size: int) -> None:
    steps = Steps(small(kv_heads), page_size=page_size)
    for size in CHUNKED_SIZES:
        few = min(size // 4, MAX_RUNNING - 3)
        positions = [(37 * index) % 900 for index in range(few)]
        rest = size - few
        for chunks, decodes in (
            ([(0, size)], []),  # no padding
            ([(100, size - 5)], []),
            ([(0, rest // 2), (200, rest // 2 - 1)], positions),
            ([(0, 1)], positions),  # much padding, or the graph of a smaller size
        ):
            assert_alike(*steps.both(steps.batch(chunks, decodes)))
    steps.engine.close()


def test_many_chunks_and_decodes(model: Small) -> None:
    steps = Steps(model)
    chunks = [(index * 20, 1 + index % 9) for index in range(MOST_CHUNKS)]
    decodes = [11 * index for index in range(MAX_RUNNING - MOST_CHUNKS)]
    assert_alike(*steps.both(steps.batch(chunks, decodes)))
    assert_alike(*steps.both(steps.batch([(0, 1)] * MOST_CHUNKS, [])))
    steps.engine.close()


@pytest.mark.parametrize("cuda_graph", [True, False], ids=["graph", "eager"])
def test_the_ladder_is_what_replays(model: Small, cuda_graph: bool) -> None:
    steps = Steps(model, cuda_graph=cuda_graph)
    for chunks, decodes, fits in (
        ([(0, 3)], [5, 6], True),
        ([(0, 1000)], [5] * 24, True),
        ([(0, 1000)], [5] * 25, False),  # more tokens than the largest
        ([(0, 2)] * (MOST_CHUNKS + 1), [], False),
    ):
        result = steps.engine.collect(steps.engine.launch(steps.batch(chunks, decodes)))
        assert result.run.graph == (fits and cuda_graph)
        assert result.run.padded_sequences == len(chunks) + len(decodes)
        assert len(result.tokens) == 1 + len(decodes)  # of the chunks the last one alone samples
    assert chunked_size(1, 1, LONGEST_CHUNKED + 1, 0) == 0
    steps.engine.close()


@pytest.mark.parametrize("overlap", [True, False], ids=["overlap", "in_turn"])
@pytest.mark.parametrize("step_tokens", [37, 300])
def test_greedy_tokens_of_mixed_steps(model: Small, step_tokens: int, overlap: bool) -> None:
    """Chunks beside decodes whose tokens are still in flight; pages that no step owns are NaN."""
    policy = {"batching": {"name": "chunked", "step_tokens": step_tokens}}
    assert_likeliest(model, ASKED, COUNT, greedy(model, ASKED, COUNT, policy=policy, overlap=overlap))


@pytest.mark.parametrize("attention", ["triton", "flashinfer+triton"])
def test_whichever_backend_runs_the_other_steps(model: Small, attention: str) -> None:
    if "flashinfer" in attention:
        pytest.importorskip("flashinfer", reason="needs FlashInfer")
    policy = {"batching": {"name": "chunked", "step_tokens": 100}, "reservation": {"name": "none"}}
    assert_likeliest(model, ASKED, COUNT, greedy(model, ASKED, COUNT, policy=policy, pages=60, attention=attention))

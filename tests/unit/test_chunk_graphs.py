"""Steps with chunks, replayed as graphs would be: on the CPU, where a replay runs the forward pass again."""

# ruff: noqa: E402 (what needs Triton is imported once it is known to be there)
from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from tests.tiny.interpreter import ON_GPU

# isort: split
from runtime.attention.base import AttentionMetadata
from runtime.attention.torch import TorchAttention
from runtime.engine import chunk_graphs
from runtime.engine.chunk_graphs import ChunkGraphs
from runtime.engine.memory import kv_pool
from runtime.engine.torch_engine import load_model
from runtime.models.config import load_model_config
from runtime.scheduler.graph_sizes import chunked_size
from tests.tiny.serving import on_cpu, prompts
from tests.unit.test_padded_steps import FIELDS, inputs_of

if ON_GPU:
    pytest.skip("tests/gpu has the real graphs", allow_module_level=True)

PAGE_SIZE, PAGES, ROWS = 16, 64, 6


class Replayed:
    """A graph that runs its forward pass again, on what its inputs hold by then."""

    def __init__(self, forward: Callable[[], torch.Tensor]) -> None:
        self.forward, self.result = forward, forward()

    def replay(self) -> None:
        self.result.copy_(self.forward())


@torch.inference_mode()
def test_steps_of_any_kind_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    def captured(forward: Callable[[], torch.Tensor], _: Any) -> tuple[Replayed, torch.Tensor]:
        graph = Replayed(forward)
        return graph, graph.result

    monkeypatch.setattr(chunk_graphs, "captured", captured)
    monkeypatch.setattr(chunk_graphs, "CHUNKED_SIZES", (16, 32))
    config, placement = load_model_config(FIELDS), on_cpu()
    model = load_model(FIELDS, config, placement, 1)
    pool = kv_pool(config, placement, pages=PAGES + 1, page_size=PAGE_SIZE).normal_()
    pool[:, :, PAGES * PAGE_SIZE :] = torch.nan  # padding's page: only what a step wrote there may be read
    last_token = torch.tensor(prompts(ROWS + 1, seed=5)[0])
    graphs = ChunkGraphs(
        model, pool, last_token, page_size=PAGE_SIZE, heads=config.num_attention_heads, columns=4, pool=None
    )
    for chunks, decodes in (
        ([(0, 5)], []),
        ([(3, 9), (0, 2), (17, 1)], [4, 17, 30]),
        ([(33, 14)], [1, 50]),
        ([(0, 1)], [60, 2, 3, 4, 5]),
        ([(10, 32)], []),
    ):
        inputs = inputs_of(chunks, decodes, PAGE_SIZE)
        size = chunked_size(len(chunks), len(inputs.tokens), 64, len(decodes))
        before = pool.clone()
        hidden, rows = graphs.run(inputs, size)
        after = pool.clone()
        pool.copy_(before.nan_to_num())  # the reference reads whole pages
        step = TorchAttention(pool, PAGE_SIZE).plan(
            AttentionMetadata(
                inputs.query_lengths, inputs.lengths, inputs.pages, inputs.prefills, torch.from_numpy(inputs.slots)
            )
        )
        tokens = torch.cat([torch.from_numpy(inputs.tokens), last_token[inputs.rows[inputs.prefills :]]])
        expected = model(tokens, torch.from_numpy(inputs.positions), step)[torch.from_numpy(inputs.sampled_tokens)]
        torch.testing.assert_close(hidden, expected, rtol=1e-3, atol=1e-4)
        assert rows.tolist() == inputs.rows[inputs.sampled].tolist()
        own = PAGES * PAGE_SIZE
        torch.testing.assert_close(after[:, :, :own], pool[:, :, :own], rtol=1e-3, atol=1e-4)

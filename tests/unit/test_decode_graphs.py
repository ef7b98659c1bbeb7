"""Decodes, replayed as graphs would be: on the CPU, where a replay runs the forward pass again."""

# ruff: noqa: E402 (what needs Triton is imported once it is known to be there)
from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from tests.tiny.interpreter import ON_GPU

# isort: split
from runtime.attention import triton as triton_attention
from runtime.attention.base import AttentionMetadata, GpuAttention
from runtime.attention.torch import TorchAttention
from runtime.attention.triton import FusedGraphStep, TritonAttention
from runtime.engine import graphs
from runtime.engine.graphs import DecodeGraphs
from runtime.engine.memory import kv_pool
from runtime.engine.torch_engine import load_model
from runtime.models.config import load_model_config
from runtime.scheduler.graph_sizes import decodes_fused
from tests.tiny.serving import on_cpu, prompts
from tests.unit.test_padded_steps import FIELDS, inputs_of

if ON_GPU:
    pytest.skip("tests/gpu has the real graphs", allow_module_level=True)

PAGE_SIZE, PAGES, ROWS = 16, 36, 9
LITTLE_KV = 90  # tokens, here


class Replayed:
    """A graph that runs its forward pass again, on what its inputs hold by then."""

    replays = 0

    def __init__(self, forward: Callable[[], torch.Tensor]) -> None:
        self.forward, self.result = forward, forward()

    def replay(self) -> None:
        self.replays += 1
        self.result.copy_(self.forward())


class Plain(TritonAttention):
    """Without a kernel for small decodes, as FlashInfer is."""

    fused_step = GpuAttention.fused_step  # type: ignore[assignment]


def captured(forward: Callable[[], torch.Tensor], _: Any) -> tuple[Replayed, torch.Tensor]:
    graph = Replayed(forward)
    return graph, graph.result


class Decodes:
    """A model, and graphs of its decodes of 2 and of 9 sequences."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, backend: type[TritonAttention]) -> None:
        config, placement = load_model_config({**FIELDS, "num_hidden_layers": 1}), on_cpu()
        self.model = load_model(FIELDS, config, placement, 1)
        self.pool = kv_pool(config, placement, pages=PAGES + 1, page_size=PAGE_SIZE).normal_()
        self.pool[:, :, PAGES * PAGE_SIZE :] = torch.nan  # padding's page: only what a step wrote there may be read
        monkeypatch.setattr(triton_attention, "_PROCESSORS_OF_A_CPU", 1)  # few programs, so that it does not take long
        monkeypatch.setattr(graphs, "captured", captured)
        monkeypatch.setattr(graphs, "ladder", lambda _: [2, 9])
        little = partial(decodes_fused, most_bytes=LITTLE_KV * self.pool[0, :, 0].nbytes)
        monkeypatch.setattr(graphs, "decodes_fused", little)
        self.last_token = torch.tensor(prompts(ROWS + 1, seed=5)[0])
        attention = backend(self.pool, PAGE_SIZE, config.num_attention_heads)
        self.made = DecodeGraphs(self.model, attention, self.last_token, largest=ROWS, columns=4, pool=None)

    def run(self, positions: list[int]) -> None:
        """Decode tokens at these positions, as the reference does."""
        inputs, pool = inputs_of([], positions, PAGE_SIZE), self.pool
        before = pool.clone()
        hidden, rows = self.made.run(inputs)
        after = pool.clone()
        pool.copy_(before.nan_to_num())  # the reference reads whole pages
        reference = TorchAttention(pool, PAGE_SIZE).plan(
            AttentionMetadata(inputs.query_lengths, inputs.lengths, inputs.pages, 0, torch.from_numpy(inputs.slots))
        )
        expected = self.model(self.last_token[inputs.rows], torch.from_numpy(inputs.positions), reference)
        torch.testing.assert_close(hidden, expected, rtol=1e-3, atol=1e-4)
        assert rows.tolist() == inputs.rows.tolist()
        own = PAGES * PAGE_SIZE
        torch.testing.assert_close(after[:, :, :own], pool[:, :, :own], rtol=1e-3, atol=1e-4)

    def replays(self) -> dict[tuple[int, bool], int]:
        """Of each graph, by its size and whether it is fused."""
        kept: Any = [*self.made._captured.items()], [*self.made._fused.items()]
        for fused, each in enumerate(kept):
            assert all(isinstance(one.attention, FusedGraphStep) == fused for _, one in each)
        return {(size, bool(fused)): one.graph.replays for fused, each in enumerate(kept) for size, one in each}


@torch.inference_mode()
def test_little_kv_replays_one_kernel_a_layer_and_much_several(monkeypatch: pytest.MonkeyPatch) -> None:
    decodes = Decodes(monkeypatch, TritonAttention)
    decodes.run([44, 44])  # 90 tokens, the step's own included
    assert decodes.replays() == {(2, False): 0, (2, True): 1, (9, False): 0}
    decodes.run([44, 45])
    assert decodes.replays() == {(2, False): 1, (2, True): 1, (9, False): 0}
    decodes.run([50])  # padded
    assert decodes.replays() == {(2, False): 1, (2, True): 2, (9, False): 0}
    decodes.run([0] * ROWS)  # little KV of too many
    assert decodes.replays() == {(2, False): 1, (2, True): 2, (9, False): 1}


@torch.inference_mode()
def test_a_backend_without_such_a_kernel_has_one_graph_a_size(monkeypatch: pytest.MonkeyPatch) -> None:
    decodes = Decodes(monkeypatch, Plain)
    decodes.run([3])
    assert decodes.replays() == {(2, False): 1, (9, False): 0}

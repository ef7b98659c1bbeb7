"""The KV memory takes what the largest steps leave free, the same on every rank; nothing fits: a clear refusal."""

# ruff: noqa: E402 (what needs torch is imported once it is known to be there)
from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

torch = pytest.importorskip("torch")

from runtime.distributed import SingleCommunicator
from runtime.engine.engine import Engine
from runtime.engine.memory import KvMemoryError, page_bytes, pages_on_gpu
from runtime.engine.torch_engine import TorchEngine, load_model
from runtime.engine.trial import fitted_pages, run_largest_steps
from runtime.layers.parts import Placement
from runtime.models.config import load_model_config
from runtime.scheduler import Batch, SchedulerConfig
from tests.tiny.serving import on_cpu

FIELDS: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "vocab_size": 101,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 200,
    "dtype": "float32",
}
CONFIG = load_model_config(FIELDS)
SIZES = SchedulerConfig(pages=500, page_size=16, max_running=3, max_context=50)
GIB = 1 << 30


def engine_of(sizes: SchedulerConfig, table: npt.NDArray[np.int32]) -> TorchEngine:
    return TorchEngine(CONFIG, load_model(FIELDS, CONFIG, on_cpu(), 1), on_cpu(), sizes, table)


@pytest.mark.parametrize("step_tokens", [1, 20, 64, 100, 10_000])
def test_the_largest_steps_are_as_large_as_the_limits_allow(step_tokens: int) -> None:
    engine = engine_of(replace(SIZES, pages=1), np.zeros((3, 4), np.int32))
    launched: list[Batch] = []
    launch = engine.launch
    engine.launch = lambda batch: launched.append(batch) or launch(batch)  # type: ignore[method-assign,func-returns-value]
    run_largest_steps(engine, SIZES, step_tokens)
    tokens, sequences = ([sum(c.tokens for c in b.chunks) for b in launched], [len(b.chunks) for b in launched])
    assert tokens[0] == min(step_tokens, 3 * 50)
    assert sequences[1] == min(3, step_tokens)
    assert all(chunk.tokens <= 50 and chunk.samples for batch in launched for chunk in batch.chunks)
    assert not engine._sampler._params  # nothing of the trial stays
    engine.close()


def test_pages_are_counted_while_the_trial_stands_and_never_more_than_asked() -> None:
    standing: list[int] = []

    def measure(workspace_bytes: int) -> int:
        assert workspace_bytes == 2 * 3 * 4 * 4  # page tables on the device, int32
        standing.append(len(made))
        assert warmed == [64] * len(made), "what kernels take is taken"
        return 400

    made: list[SchedulerConfig] = []
    warmed: list[int] = []

    def make(sizes: SchedulerConfig, table: npt.NDArray[np.int32]) -> Engine[Any]:
        made.append(sizes)
        engine = engine_of(sizes, table)
        engine.warm_up = warmed.append  # type: ignore[method-assign]
        return engine

    assert fitted_pages(make, SIZES, step_tokens=64, measure=measure) == 400
    assert fitted_pages(make, replace(SIZES, pages=30), step_tokens=64, measure=measure) == 30
    assert [sizes.pages for sizes in made] == [1, 1]
    assert standing == [1, 2]


def test_a_step_that_does_not_fit_names_the_knobs() -> None:
    def make(sizes: SchedulerConfig, table: npt.NDArray[np.int32]) -> Engine[Any]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. And so on")

    with pytest.raises(KvMemoryError, match=r"step of 64 prompt tokens.*out of memory\).*policy.batching.step_tokens"):
        fitted_pages(make, SIZES, step_tokens=64, measure=lambda _: 1)


class TwoRanks(SingleCommunicator):
    """This rank, and another whose GPU holds more already."""

    size = 2

    def __init__(self, other_used: int) -> None:
        self._other_used = other_used

    def all_gather(self, tensor: torch.Tensor) -> torch.Tensor:
        other = torch.tensor([[self._other_used], [-80 * GIB]])
        return torch.cat([tensor, other], dim=-1)


@pytest.mark.parametrize(("other_used", "room"), [(10, 50), (40, 30)])
def test_the_fullest_rank_decides(monkeypatch: pytest.MonkeyPatch, other_used: int, room: int) -> None:
    """Of 80 GiB 72 may be used, 2 are kept, and 20 are in use here; the numbers are GiB."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (60 * GIB, 80 * GIB))
    placement = Placement(TwoRanks(other_used * GIB), torch.device("cpu"), torch.bfloat16)
    pages = pages_on_gpu(CONFIG, placement, 2 * GIB, page_size=16, fraction=0.9)
    assert pages == room * GIB // page_bytes(CONFIG, page_size=16, ranks=2, dtype=torch.bfloat16)


def test_no_room_on_any_rank_is_refused_on_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (60 * GIB, 80 * GIB))
    placement = Placement(TwoRanks(79 * GIB), torch.device("cpu"), torch.bfloat16)
    with pytest.raises(KvMemoryError, match=r"no room for KV: 0.9 of 80.00 GiB, less 79.00 GiB in use"):
        pages_on_gpu(CONFIG, placement, 0, page_size=16, fraction=0.9)

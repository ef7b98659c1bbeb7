"""Steps of no sequence: of many sizes, within the engine's limits, and nothing of them is left for later steps."""

# ruff: noqa: E402 (what needs Triton is imported once it is known to be there)
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from tests.tiny.interpreter import ON_GPU

# isort: split
from runtime.attention.choose import AttentionChoice
from runtime.engine import cuda_engine, torch_engine
from runtime.engine.cuda_engine import CudaEngine
from runtime.engine.engine import Engine
from runtime.engine.inputs import StepInputs
from runtime.engine.memory import KvMemoryError
from runtime.engine.place import EnginePlace
from runtime.engine.torch_engine import load_model
from runtime.engine.warm import of_no_sequence, warm_prefills, warm_rows, warm_tokens
from runtime.models.config import load_model_config
from runtime.scheduler import SchedulerConfig
from tests.tiny.serving import on_cpu
from tests.unit.test_padded_steps import FIELDS

ROW, PAGE = 7, 11


@given(st.integers(1, 100_000))
def test_sizes_fall_from_the_largest_step_even_and_odd(most: int) -> None:
    sizes = warm_tokens(most)
    assert sizes[0] <= most
    assert max(sizes) - min(most, 16_384) in range(-15, 1)
    assert 1 <= min(sizes) <= 16
    if most > 64:
        assert {size % 16 == 0 for size in sizes} == {size % 2 == 0 for size in sizes} == {True, False}
        assert 16 <= len(sizes) <= 24


@given(st.integers(1, 3000), st.integers(1, 300), st.sampled_from([1, 16, 64]))
def test_no_step_is_larger_than_the_engine_runs(most: int, max_running: int, page_size: int) -> None:
    kinds = set()
    for step in warm_prefills(most, max_running, row=ROW, page=PAGE, page_size=page_size):
        decodes = len(step.rows) - step.prefills
        assert len(step.positions) <= most
        assert len(step.rows) <= max_running
        assert step.prefills
        kinds.add((step.prefills, decodes > 0))
    if most > 100 and max_running > 1:
        assert kinds == {(1, False), (2, False), (1, True)}
    rows = warm_rows(max_running)
    assert rows == sorted(rows, reverse=True)
    assert (rows[0], rows[-1]) == (max_running, 1)


@given(st.lists(st.integers(1, 50), max_size=3), st.integers(0, 4), st.sampled_from([1, 16]))
def test_a_step_of_no_sequence_keeps_to_its_page_and_its_row(chunks: list[int], decodes: int, page_size: int) -> None:
    if not chunks and not decodes:
        return
    step = of_no_sequence(chunks, decodes, row=ROW, page=PAGE, page_size=page_size)
    assert (step.slots // page_size == PAGE).all()
    assert (step.pages == PAGE).all()
    assert (step.rows == ROW).all()
    assert step.pages.shape[1] * page_size >= step.lengths.max()
    assert step.query_lengths.tolist() == chunks + [1] * decodes
    assert len(step.tokens) == sum(chunks)
    assert len(step.positions) == len(step.slots) == sum(chunks) + decodes
    assert (step.positions[step.sampled_tokens] == step.lengths - 1).all()
    starts = step.sampled_tokens - step.query_lengths + 1
    assert (step.positions[starts] == step.lengths - step.query_lengths).all()


class NoClock:
    """In place of the device's."""

    def mark(self) -> None:
        return None


@pytest.mark.skipif(ON_GPU, reason="tests/gpu has the real engine")
def test_the_engine_is_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_engine, "DeviceClock", NoClock)
    monkeypatch.setattr(cuda_engine, "to_host", torch.clone)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    config, placement = load_model_config({**FIELDS, "num_hidden_layers": 1}), on_cpu()
    model = load_model({**FIELDS, "num_hidden_layers": 1}, config, placement, 1)
    sizes, table = SchedulerConfig(3, 16, 3, 64), np.zeros((3, 3), np.int32)
    engine = CudaEngine(
        config, model, placement, sizes, table, attention=AttentionChoice("triton", "triton"), cuda_graph=False
    )
    pool, sampler = engine._attention.kv, engine._sampler
    pool.normal_()
    before = pool.clone()
    ran: list[tuple[int, int]] = []
    forward = engine._forward

    def watched(inputs: StepInputs) -> Any:
        ran.append((len(inputs.tokens), len(inputs.rows) - inputs.prefills))
        return forward(inputs)

    monkeypatch.setattr(engine, "_forward", watched)
    monkeypatch.setattr("runtime.engine.warm._CONTEXT", 20)
    engine.warm_up(20)
    assert [tokens + decodes for tokens, decodes in ran if tokens] == warm_tokens(20)
    assert [decodes for tokens, decodes in ran if not tokens] == [3, 2, 1], "without graphs decodes run so, too"
    assert torch.equal(pool[:, :, :48], before[:, :, :48])
    assert not torch.equal(pool[:, :, 48:], before[:, :, 48:]), "the page of no sequence"
    assert engine._last_token.tolist() == [0] * 4
    assert not sampler._in_output.any()
    assert not sampler._in_prompt.any()
    assert not sampler._params


def test_an_engine_is_warmed_when_it_starts_and_a_step_without_room_names_the_knobs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []

    def warm_up(_: Engine[Any], step_tokens: int) -> None:
        asked.append(step_tokens)
        if step_tokens > 100:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. And so on")

    monkeypatch.setattr(torch_engine.TorchEngine, "warm_up", warm_up)
    sizes = SchedulerConfig(30, 16, 3, 64)

    def start(step_tokens: int) -> None:
        loaded = torch_engine.build({"model": FIELDS, "seed": 1}, EnginePlace(sizes, step_tokens, 0, 1, ""))
        loaded.start(np.zeros((3, 4), np.int32)).close()

    start(64)
    with pytest.raises(KvMemoryError, match=r"engine.pages=30.*512 prompt tokens.*out of memory\).*step_tokens"):
        start(512)
    assert asked == [64, 512]

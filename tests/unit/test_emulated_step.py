"""What an emulated step takes: the cost model's seconds, on a GPU whose clocks follow the steps before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import pytest

from harness.backends.emulated_step import step_seconds
from harness.backends.sim import server_model
from harness.compose import compose
from harness.simulator.engine import Shapes
from runtime.scheduler import Batch, Chunk, Sequence, Snapshot

TOKENS = 2048


def options(cost: str) -> dict[str, object]:
    return asdict(compose([f"cost={cost}", "model=qwen3_8b", "hardware=h100"]))


def batch(chunk: int, decodes: int = 0) -> Batch:
    sequences = [Sequence(number, TOKENS, np.zeros(TOKENS, np.int32), 8) for number in range(decodes + 1)]
    chunks = [Chunk(sequences[0], 0, chunk, samples=True)] if chunk else []
    return Batch(0, chunks, sequences[1:], [TOKENS] * decodes, [], Snapshot(0, decodes + 1, 0, 0, 0, 0))


def in_a_row(step_s: Callable[[Batch, float], float], batches: list[Batch], at_s: float) -> list[float]:
    took_s: list[float] = []
    for one in batches:
        took_s.append(step_s(one, at_s + sum(took_s)))
    return took_s


def test_a_measured_gpu_is_slower_behind_prefills_than_behind_a_pause() -> None:
    step_s = step_seconds(options("profile"))
    took_s = in_a_row(step_s, [batch(TOKENS)] * 4, at_s=0.0)
    assert took_s == sorted(took_s)
    assert 1.05 * took_s[0] < took_s[-1] < 1.25 * took_s[0]
    assert in_a_row(step_s, [batch(TOKENS)] * 4, at_s=60.0) == pytest.approx(took_s), "up again"
    decodes_s = in_a_row(step_s, [batch(0, decodes=32)] * 60, at_s=61.0)
    assert 1.02 * decodes_s[-1] < decodes_s[0] < 1.06 * decodes_s[-1]
    assert decodes_s[-1] == decodes_s[-2]


def test_a_roofline_knows_of_no_limit() -> None:
    values = options("roofline")
    step_s, model = step_seconds(values), server_model(compose(["cost=roofline", "model=qwen3_8b", "hardware=h100"]))
    shape, _ = Shapes(model.options, model.cost.shared_saves)(batch(TOKENS))
    assert in_a_row(step_s, [batch(TOKENS)] * 4, at_s=0.0) == [model.cost.step_s(shape)] * 4

"""Steps of no sequence that load an engine's kernels change nothing that its steps compute, and leave no memory."""

# ruff: noqa: E402 (what needs a GPU is imported once it is known to be there)
from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)

from runtime.engine.torch_engine import make_engine
from runtime.scheduler import SchedulerConfig
from tests.gpu.small import HALF, MOE, small

PAGES, PAGE_SIZE, MAX_RUNNING, STEP_TOKENS = 64, 16, 20, 2048


@pytest.mark.parametrize("cuda_graph", [True, False], ids=["graph", "eager"])
@pytest.mark.parametrize(
    ("fields", "attention", "fp8"),
    [({}, "auto", False), ({}, "triton", False), (MOE, "auto", False), ({}, "auto", True)],
    ids=["auto", "triton", "moe", "fp8"],
)
def test_the_engine_is_as_it_was(fields: dict[str, Any], attention: str, fp8: bool, cuda_graph: bool) -> None:
    if fp8 and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("needs a GPU with fp8")
    model = small(4, **fields)
    placement = replace(HALF, fp8_kv=fp8)
    sizes = SchedulerConfig(PAGES, PAGE_SIZE, MAX_RUNNING, 1024)
    table = np.zeros((MAX_RUNNING, sizes.max_row_pages), np.int32)
    engine: Any = make_engine(
        model.config, model.half, placement, sizes, table, attention=attention, cuda_graph=cuda_graph
    )
    pool, own = engine._attention.kv.view(torch.uint8), PAGES * PAGE_SIZE
    pool[:, :, :own].random_(0, 255)
    before = pool.clone()
    engine.warm_up(STEP_TOKENS)
    allocated, reserved = torch.cuda.memory_allocated(), torch.cuda.memory_reserved()
    assert torch.equal(pool[:, :, :own], before[:, :, :own])
    assert not torch.equal(pool[:, :, own:], before[:, :, own:]), "the page of no sequence"
    assert not engine._last_token.any()
    assert not engine._sampler._in_output.any()
    engine.warm_up(STEP_TOKENS)  # libraries have their workspaces by now
    assert torch.cuda.memory_allocated() == allocated
    assert torch.cuda.memory_reserved() < reserved + (64 << 20)
    engine.close()

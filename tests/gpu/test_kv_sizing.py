"""The KV memory on a GPU: what a trial of the largest steps leaves free, and the engine then runs within it."""

# ruff: noqa: E402 (what needs a GPU is imported once it is known to be there)
from __future__ import annotations

import os
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)

from runtime.engine.memory import KvMemoryError, page_bytes, pages_on_gpu
from runtime.engine.torch_engine import make_engine
from runtime.engine.trial import fitted_pages, run_largest_steps
from runtime.scheduler import SchedulerConfig
from tests.gpu.small import HALF, small

SIZES = SchedulerConfig(1 << 26, 16, 64, 4096)
STEP_TOKENS = 4096


def in_use() -> int:
    """Bytes of the GPU that are taken."""
    free, total = torch.cuda.mem_get_info()
    return int(total - free)


@pytest.mark.skipif("PYTEST_XDIST_WORKER" in os.environ, reason="needs the GPU for itself: run without -n")
def test_the_engine_stays_within_its_share() -> None:
    model = small(4)
    torch.cuda.empty_cache()
    _, total = torch.cuda.mem_get_info()
    fraction = (in_use() + (6 << 30)) / total
    make = partial(make_engine, model.config, model.half, HALF)
    measure = partial(pages_on_gpu, model.config, HALF, page_size=16, fraction=fraction)
    before = in_use()
    pages = fitted_pages(make, SIZES, step_tokens=STEP_TOKENS, measure=measure)
    assert in_use() < before + (300 << 20), "the trial leaves memory behind"
    sizes = replace(SIZES, pages=pages)
    engine = make(sizes, np.zeros((sizes.max_running, sizes.max_row_pages), np.int32))
    engine.warm_up(STEP_TOKENS)
    run_largest_steps(engine, sizes, STEP_TOKENS)
    assert in_use() < fraction * total * 1.02
    pool_bytes = pages * page_bytes(model.config, page_size=16, ranks=1, dtype=torch.bfloat16)
    assert pool_bytes > 2 << 30, "most of the share is for KV"
    engine.close()


def test_no_room_is_refused() -> None:
    model = small(4)
    make = partial(make_engine, model.config, model.half, HALF)
    measure = partial(pages_on_gpu, model.config, HALF, page_size=16, fraction=0.001)
    with pytest.raises(KvMemoryError, match="no room for KV"):
        fitted_pages(make, SIZES, step_tokens=STEP_TOKENS, measure=measure)

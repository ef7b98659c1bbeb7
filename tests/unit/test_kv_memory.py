"""Sizing the KV pool."""

# ruff: noqa: E402 (what needs torch is imported once it is known to be there)
from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from runtime.engine.memory import KvMemoryError, kv_pool, page_bytes, pages_that_fit
from runtime.models.config import load_model_config
from tests.tiny.serving import on_cpu
from tests.tiny.threads import on_ranks
from tests.unit.test_model_config import BASE

CONFIG = load_model_config({**BASE, "num_key_value_heads": 2})
GIB = 1 << 30


@pytest.mark.parametrize(("ranks", "heads"), [(1, 2), (2, 1), (4, 1)])
def test_a_page_takes_what_the_pool_takes(ranks: int, heads: int) -> None:
    for pool in on_ranks(ranks, lambda communicator: kv_pool(CONFIG, on_cpu(communicator), pages=5, page_size=16)):
        assert pool.shape == (2, 2, 80, heads, 16)
        size = page_bytes(CONFIG, page_size=16, ranks=ranks, dtype=torch.float32)
        assert pool.numel() * pool.element_size() == 5 * size


def test_pages_are_what_is_left() -> None:
    fit = pages_that_fit(
        total_bytes=80 * GIB, used_bytes=16 * GIB, workspace_bytes=2 * GIB, fraction=0.9, page_bytes=2 << 20
    )
    assert fit == (72 - 18) * 512


@pytest.mark.parametrize("fraction", [0.2, 0.0, 1.5])
def test_no_room_is_said_with_the_numbers(fraction: float) -> None:
    with pytest.raises(KvMemoryError, match=r"memory_fraction.*|80\.00 GiB"):
        pages_that_fit(
            total_bytes=80 * GIB, used_bytes=16 * GIB, workspace_bytes=0, fraction=fraction, page_bytes=2 << 20
        )

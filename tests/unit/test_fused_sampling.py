"""The fused draw chooses what the reference does: on the GPU where there is one, else in Triton's interpreter."""

# ruff: noqa: E402 (what needs Triton is imported once it is known to be there)
from __future__ import annotations

import os

import numpy as np
import pytest

torch = pytest.importorskip("torch")
ON_GPU = torch.cuda.is_available()
if not ON_GPU:
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported
pytest.importorskip("triton", reason="the fused draw is written in Triton, which is not installed")

from runtime.kernels.fused_sampling import fused_gumbel_argmax
from runtime.kernels.gumbel import gumbel_argmax

DEVICE = "cuda" if ON_GPU else "cpu"


def keys_of(rows: int, seed: int = 0) -> torch.Tensor:
    random = np.random.default_rng(seed).integers(0, 1 << 32, (rows, 2), np.uint32)
    return torch.from_numpy(random.view(np.int32)).to(DEVICE)


def scores_of(rows: int, width: int, dtype: torch.dtype, spread: float = 3.0) -> torch.Tensor:
    noise = torch.randn(rows, width, generator=torch.Generator().manual_seed(rows + width)) * spread
    return noise.to(DEVICE, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16 if ON_GPU else torch.float16])
@pytest.mark.parametrize(("rows", "width"), [(1, 5), (1, 1024), (3, 1025), (2, 9000), (70, 40)])
def test_warm_and_greedy_rows_choose_what_the_reference_does(rows: int, width: int, dtype: torch.dtype) -> None:
    scores = scores_of(rows, width, dtype)
    temperature = torch.tensor([(0.0, 0.3, 1.0, 5.0)[row % 4] for row in range(1, rows + 1)], device=DEVICE)
    keys = keys_of(rows)
    assert fused_gumbel_argmax(scores, temperature, keys).tolist() == gumbel_argmax(scores, temperature, keys).tolist()


def test_many_draws_from_equal_scores_are_those_of_the_reference() -> None:
    """Nothing but noise decides, over its whole range; a draw in some thousands may tie."""
    rows, width = 40, 4000
    scores = torch.zeros(rows, width, device=DEVICE)
    temperature, keys = torch.ones(rows, device=DEVICE), keys_of(rows, seed=1)
    fused, plain = fused_gumbel_argmax(scores, temperature, keys), gumbel_argmax(scores, temperature, keys)
    assert (fused == plain).float().mean() > 0.97
    assert len(set(fused.tolist())) > 30


def test_of_equals_the_first() -> None:
    scores = torch.zeros(2, 5000, device=DEVICE)
    scores[1, [4999, 3001, 3000]] = 1.0
    assert fused_gumbel_argmax(scores, torch.zeros(2, device=DEVICE), keys_of(2)).tolist() == [0, 3000]


def test_rows_that_hold_no_number_choose_a_token_all_the_same() -> None:
    scores = torch.full((2, 1500), -torch.inf, device=DEVICE)
    scores[1] = torch.nan
    chosen = fused_gumbel_argmax(scores, torch.zeros(2, device=DEVICE), keys_of(2))
    assert ((chosen >= 0) & (chosen < 1500)).all()


def test_rows_of_a_wider_matrix() -> None:
    """The LM head's columns may be padded."""
    wide = scores_of(4, 3000, torch.float32)
    temperature, keys = torch.tensor([0.0, 1.0, 0.0, 1.0], device=DEVICE), keys_of(4)
    scores = wide[:, :2500]
    assert fused_gumbel_argmax(scores, temperature, keys).tolist() == gumbel_argmax(scores, temperature, keys).tolist()

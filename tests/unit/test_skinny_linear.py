"""The product of few rows computes what PyTorch's does: on the GPU where there is one, else in Triton's interpreter."""

# ruff: noqa: E402 (what needs Triton is imported once it is known to be there)
from __future__ import annotations

import os

import pytest

torch = pytest.importorskip("torch")
ON_GPU = torch.cuda.is_available()
if not ON_GPU:
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported
pytest.importorskip("triton", reason="the kernels are written in Triton, which is not installed")

import torch.nn.functional as F  # noqa: N812 (its name everywhere)

from runtime.kernels import Weight, fused
from runtime.kernels.fused import FusedKernels
from runtime.kernels.skinny import ALONE, DEEP, LARGE, SHALLOW, SkinnyTiling, _skinny, skinny_linear, skinny_tiling

DEVICE = "cuda" if ON_GPU else "cpu"
# Triton's interpreter rounds bfloat16 as NumPy can: float16 tests the same code.
DTYPE = torch.bfloat16 if ON_GPU else torch.float16
EARLY = ON_GPU and torch.cuda.get_device_capability() >= (9, 0)
SMALL = SkinnyTiling(outputs=16, depth=64, warps=1, stages=3, lines=4)


def noise(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, DTYPE)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [1, 3, 16, 17, 32, 64])
def test_skinny_linear(rows: int, bias: bool) -> None:
    x, weight = noise(rows, 256, seed=0), noise(48, 256, seed=1)
    offset = noise(48, seed=2) * 20 if bias else None
    found = skinny_linear(x, weight, offset, SMALL, overlap_launch=EARLY)
    exact = x.double() @ weight.double().T + (0 if offset is None else offset.double())
    assert found.dtype == DTYPE
    assert ((found.double() - exact).norm() / exact.norm()) < 2e-3 * (4 if ON_GPU else 1)


def test_rows_are_kept_apart() -> None:
    x, weight = noise(5, 256, seed=0), noise(32, 256, seed=1)
    together = skinny_linear(x, weight, None, SMALL, overlap_launch=EARLY)
    alone = torch.cat([skinny_linear(row[None], weight, None, SMALL, overlap_launch=EARLY) for row in x])
    assert torch.equal(together, alone)


def test_leading_dimensions_stay() -> None:
    x, weight = noise(2, 3, 256, seed=0), noise(32, 256, seed=1)
    found = skinny_linear(x, weight, None, SMALL, overlap_launch=EARLY)
    flat = skinny_linear(x.view(6, 256), weight, None, SMALL, overlap_launch=EARLY)
    assert found.shape == (2, 3, 32)
    assert torch.equal(found.view(6, 32), flat)


def test_nothing_is_written_behind_the_rows() -> None:
    x, weight = noise(3, 64, seed=0), noise(16, 64, seed=1)
    out = torch.full((4, 16), 7.0, dtype=DTYPE, device=DEVICE)
    sizes = {"INPUTS": 64, "ROWS": 16, "OUTPUTS": 16, "DEPTH": 64, "LINES": 0, "LINE": 64, "BIAS": False, "PDL": False}
    _skinny[(1,)](x, weight, weight, out, 3, 16, **sizes)
    assert (out[3] == 7.0).all()
    assert (out[:3] != 7.0).all()


@pytest.mark.parametrize(("inputs", "outputs"), [(96, 32), (256, 40), (64, 32)], ids=["depth", "outputs", "lines"])
def test_a_product_that_cannot_be_cut_is_refused(inputs: int, outputs: int) -> None:
    with pytest.raises(ValueError, match=f"a product of {inputs} inputs and {outputs} outputs"):
        skinny_linear(noise(1, inputs, seed=0), noise(outputs, inputs, seed=1), None, SMALL, overlap_launch=False)


@pytest.mark.parametrize(
    ("rows", "inputs", "outputs", "tiling"),
    [
        (1, 4096, 6144, SHALLOW),
        (16, 4096, 24576, SHALLOW),
        (7, 4096, 4096, DEEP),
        (1, 12288, 4096, DEEP),
        (1, 5120, 7168, DEEP),
        (1, 1024, 1024, DEEP),
        (17, 4096, 6144, ALONE),
        (64, 8192, 5120, ALONE),
        (33, 4096, 24576, LARGE),
        (64, 1024, 151936, LARGE),
    ],
)
def test_products_that_were_faster_so(rows: int, inputs: int, outputs: int, tiling: SkinnyTiling) -> None:
    assert skinny_tiling(rows, inputs, outputs) == tiling


@pytest.mark.parametrize(
    ("rows", "inputs", "outputs"),
    [(65, 4096, 6144), (64, 12288, 4096), (64, 5120, 10240), (1, 4160, 6144), (1, 4096, 6152), (1, 256, 8192)],
    ids=["more rows", "few programs", "a few more than processors", "depth", "outputs", "few inputs"],
)
def test_products_that_cublas_keeps(rows: int, inputs: int, outputs: int) -> None:
    assert skinny_tiling(rows, inputs, outputs) is None


@pytest.mark.parametrize(
    ("rows", "overlap_launch", "taken"), [(1, True, True), (16, True, True), (17, True, False), (1, False, False)]
)
@pytest.mark.parametrize("bias", [False, True])
def test_layers_take_it_for_few_rows(
    rows: int, overlap_launch: bool, taken: bool, bias: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut: list[SkinnyTiling] = []

    def exactly(
        x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, tiling: SkinnyTiling, *, overlap_launch: bool
    ) -> torch.Tensor:
        assert overlap_launch
        cut.append(tiling)
        return F.linear(x, weight, bias)

    monkeypatch.setattr(fused, "skinny_linear", exactly)
    x, weight = noise(rows, 1024, seed=0), noise(4096, 1024, seed=1)
    offset = noise(4096, seed=2) if bias else None
    found = FusedKernels(overlap_launch=overlap_launch).linear(x, Weight(weight, None), offset)
    assert cut == [DEEP] * taken
    assert torch.equal(found, F.linear(x, weight, offset))

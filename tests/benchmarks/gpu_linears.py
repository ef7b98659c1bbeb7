"""Qwen3-8B's products of few rows on a GPU, each behind a small kernel as in a layer: cuBLAS, ours, and candidates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812 (its name everywhere)
from torch import Tensor

from runtime.kernels import Kernels, Weight
from runtime.kernels.fused import FusedKernels
from runtime.kernels.skinny import SkinnyTiling
from tests.benchmarks.fused_linear import GATED, NORMED, gated_linear, normed_linear
from tests.benchmarks.fused_linear import ROWS as FUSED_ROWS
from tests.benchmarks.gpu_kernels import HALF, LINEARS, VOCABULARY, attempt, graph_us, noise
from tests.benchmarks.split_linear import FEW_ROWS, MANY_ROWS, Cut, cut_linear, fits

ROWS = (1, 16, 32, 64)
PLACES = LINEARS | {"lm_head": (VOCABULARY, 4096)}
EPS = 1e-6
Product = Callable[[Tensor, Tensor], Tensor]


class Candidates(NamedTuple):
    """What products are cut by.

    Attributes:
        cuts: By outputs, inputs, and the first of ROWS that is not less.
        gated: Of the product of gate and up with SwiGLU's gate, for up to 16 rows.
    """

    cuts: Mapping[tuple[int, int, int], Cut] = {}
    gated: SkinnyTiling | None = GATED[0]


class CutKernels(FusedKernels):
    """Fused kernels whose products are cut by candidates where there are any.

    With a fused gate, ``linear`` of a gate and up gives the gated result, which ``silu_and_mul`` passes on.
    """

    def __init__(self, candidates: Candidates, gate_up: tuple[int, int] | None = None) -> None:
        super().__init__(overlap_launch=True)
        self._cuts = candidates.cuts
        self._gated = candidates.gated
        self._gate_up = gate_up

    def linear(self, x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
        outputs, inputs = weight.values.shape
        if self._gated is not None and (outputs, inputs) == self._gate_up and len(x) <= FUSED_ROWS:
            return gated_linear(x, weight.values, self._gated)
        cut = self._cuts.get((outputs, inputs, next((rows for rows in ROWS if rows >= len(x)), 0)))
        if cut is None or bias is not None or weight.scales is not None:
            return super().linear(x, weight, bias)
        return cut_linear(x, weight.values, cut)

    def silu_and_mul(self, x: Tensor) -> Tensor:
        done = self._gate_up is not None and 2 * x.shape[-1] == self._gate_up[0]
        return x if done else super().silu_and_mul(x)


def checked(product: Callable[[], Tensor], exact: Tensor) -> None:
    """A candidate's result is the exact one's.

    Raises:
        AssertionError: It is not.
    """
    error = float((product().float() - exact).norm() / exact.norm())
    if not error < 1e-2:
        raise AssertionError(f"error {error:.1e}")


def behind(kernels: Kernels, name: str, product: Product, x: Tensor, weight: Tensor) -> Tensor:
    """A small kernel and the product of what it leaves: early fetching shows only behind one."""
    return product(kernels.silu_and_mul(x) if name == "down" else kernels.rms_norm(x, weight[0], EPS), weight)


def product_us(kernels: Kernels, name: str, product: Product, rows: int, weights: list[Tensor]) -> float:
    """Microseconds of a small kernel and a product, in a graph; the product checked."""
    inputs = weights[0].shape[1]
    x = torch.randn(rows, inputs, dtype=HALF, device="cuda")
    checked(partial(product, x, weights[0]), F.linear(x, weights[0]).float())
    before = torch.randn(rows, 2 * inputs, dtype=HALF, device="cuda") if name == "down" else x
    return graph_us([partial(behind, kernels, name, product, before, weight) for weight in weights] * 4)


def best_cuts(bandwidth: float, kernels: Kernels) -> dict[tuple[int, int, int], Cut]:
    """Those that are faster than what products do now, printed beside it and cuBLAS."""
    print("small kernel and product of Qwen3-8B, us (times the floor): cuBLAS | now | best candidate; every candidate")
    for most, cuts in ((FUSED_ROWS, FEW_ROWS), (max(ROWS), MANY_ROWS)):
        print(f"  candidates up to {most} rows: {', '.join(f'{tuple(cut.tiling)} x {cut.parts}' for cut in cuts)}")
    best: dict[tuple[int, int, int], Cut] = {}

    def present(x: Tensor, weight: Tensor) -> Tensor:
        return kernels.linear(x, Weight(weight, None))

    for name, (outputs, inputs) in PLACES.items():
        weights, floor = [noise(outputs, inputs) for _ in range(3)], outputs * inputs * 2 / bandwidth * 1e6
        for rows in ROWS:
            cublas, now = (
                attempt(name, product_us, kernels, name, product, rows, weights) or 1e9
                for product in (F.linear, present)
            )
            found = {
                cut: attempt(str(cut), product_us, kernels, name, partial(cut_linear, cut=cut), rows, weights) or 1e9
                for cut in (FEW_ROWS if rows <= FUSED_ROWS else MANY_ROWS)
                if fits(outputs, inputs, cut)
            }
            chosen, every = min(found, key=lambda cut: found[cut]), [round(us, 1) for us in found.values()]
            if found[chosen] < 0.99 * min(now, cublas):
                best[outputs, inputs, rows] = chosen
            cells = " | ".join(f"{us:6.1f} ({us / floor:.2f}x)" for us in (cublas, now, found[chosen]))
            print(f"  {name:8s} {rows:3d} rows | {cells} {tuple(chosen.tiling)} x {chosen.parts}; {every}", flush=True)
    return best


def gated(kernels: Kernels, tiling: SkinnyTiling | None, x: Tensor, weight: Tensor) -> Tensor:
    """Norm, gate and up, SwiGLU's gate."""
    x = kernels.rms_norm(x, weight[0], EPS)
    if tiling is not None:
        return gated_linear(x, weight, tiling)
    return kernels.silu_and_mul(kernels.linear(x, Weight(weight, None)))


def normed(kernels: Kernels, tiling: SkinnyTiling | None, x: Tensor, before: Tensor, weight: Tensor) -> Tensor:
    """A product, norm, a product."""
    x, norm = kernels.linear(x, Weight(before, None)), before[0]
    if tiling is not None:
        return normed_linear(x, norm, weight, EPS, tiling)
    return kernels.linear(kernels.rms_norm(x, norm, EPS), Weight(weight, None))


def fused_us(kernels: Kernels, rows: int) -> SkinnyTiling | None:
    """Print what fusing saves; returns the best way to fuse the gate, None where none is better."""
    x = torch.randn(rows, 4096, dtype=HALF, device="cuda")
    gate_up, output = ([noise(*LINEARS[name]) for _ in range(3)] for name in ("gate_up", "o"))
    exact = gated(kernels, None, x, gate_up[0]).float(), normed(kernels, None, x, output[0], gate_up[0]).float()
    us: dict[str, dict[SkinnyTiling | None, float]] = {"gated": {}, "normed": {}}
    for tiling in (None, *GATED):
        checked(partial(gated, kernels, tiling, x, gate_up[0]), exact[0])
        us["gated"][tiling] = graph_us([partial(gated, kernels, tiling, x, weight) for weight in gate_up] * 4)
    for tiling in (None, *NORMED):
        checked(partial(normed, kernels, tiling, x, output[0], gate_up[0]), exact[1])
        pairs = zip(output, gate_up, strict=True)
        us["normed"][tiling] = graph_us([partial(normed, kernels, tiling, x, *pair) for pair in pairs] * 4)
    told = {what: [round(each, 1) for each in found.values()] for what, found in us.items()}
    print(f"  {rows:3d} rows: norm, gate and up, gate: apart, then fused: {told['gated']}")
    print(f"  {rows:3d} rows: output, norm, gate and up: apart, then norm fused: {told['normed']}", flush=True)
    return min(us["gated"], key=lambda tiling: us["gated"][tiling])


def measure_candidates(bandwidth: float) -> Candidates:
    """The best."""
    kernels = FusedKernels(overlap_launch=True)
    gates = [attempt("fused", fused_us, kernels, rows) for rows in (1, FUSED_ROWS)]
    return Candidates(best_cuts(bandwidth, kernels), gates[0])

"""Products of few rows on a GPU, those of Qwen3 models: cuBLAS, every way to cut them, and the one that layers take."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product

import torch
import torch.nn.functional as F  # noqa: N812 (its name everywhere)
import yaml
from torch import Tensor

from runtime.kernels import Weight
from runtime.kernels.fused import FusedKernels
from runtime.kernels.skinny import TILINGS, SkinnyTiling, divides, skinny_linear, skinny_tiling
from runtime.models.config import load_model_config
from tests.benchmarks.gpu_engine import CONF
from tests.benchmarks.gpu_kernels import HALF, attempt, graph_us, noise

MODELS = (("0_6b", 1), ("8b", 1), ("14b", 1), ("32b", 1), ("32b", 2), ("32b", 4), ("30b_a3b", 1))  # and ranks
ROWS = (1, 16, 32, 64)
WEIGHTS_BYTES = 150e6  # used in turn: more than the L2 cache holds
EPS = 1e-6
Product = Callable[[Tensor, Tensor], Tensor]


def places() -> dict[str, tuple[int, int]]:
    """Outputs and inputs of each rank's products; of attention alone where experts follow."""
    found = {}
    for name, ranks in MODELS:
        config = load_model_config(yaml.safe_load((CONF / f"qwen3_{name}.yaml").read_text()))
        model = name if ranks == 1 else f"{name} / {ranks}"
        width, inner = config.hidden_size, config.num_attention_heads * config.head_dim // ranks
        found[f"{model} qkv"] = (inner + 2 * config.num_key_value_heads * config.head_dim // ranks, width)
        found[f"{model} o"] = (width, inner)
        if config.moe is None:
            found[f"{model} gate_up"] = (2 * config.intermediate_size // ranks, width)
            found[f"{model} down"] = (width, config.intermediate_size // ranks)
        found[f"{model} lm_head"] = (config.vocab_size // ranks, width)
    return found


def cuts(rows: int, outputs: int, inputs: int) -> list[SkinnyTiling]:
    """Those made for so many rows that divide the product."""
    tilings = next(tilings for most, tilings in TILINGS.items() if rows <= most)
    return [tiling for tiling in tilings if divides(tiling, inputs, outputs)]


def behind(kernels: FusedKernels, product: Product, gated: bool, x: Tensor, weight: Tensor) -> Tensor:
    """A small kernel and the product of what it leaves: early fetching shows only behind one."""
    return product(kernels.silu_and_mul(x) if gated else kernels.rms_norm(x, weight[0], EPS), weight)


def product_us(product: Product, gated: bool, rows: int, weights: list[Tensor]) -> float:
    """Microseconds of a small kernel and a product, in a graph.

    Raises:
        AssertionError: The product is wrong.
    """
    kernels, inputs = FusedKernels(overlap_launch=True), weights[0].shape[1]
    x = torch.randn(rows, inputs, dtype=HALF, device="cuda")
    exact = F.linear(x, weights[0]).float()
    error = float((product(x, weights[0]).float() - exact).norm() / exact.norm())
    assert error < 1e-2, f"error {error:.1e}"
    before = torch.randn(rows, 2 * inputs, dtype=HALF, device="cuda") if gated else x
    return graph_us([partial(behind, kernels, product, gated, before, weight) for weight in weights])


def cut_by(tiling: SkinnyTiling) -> Product:
    """The product that is cut so."""
    return partial(skinny_linear, bias=None, tiling=tiling, overlap_launch=True)


def compile_for(inputs: int, rows: int) -> None:
    """Compile what products of so many inputs need, for all processes."""
    for tiling in cuts(rows, 512, inputs):
        x, weight = (torch.zeros(count, inputs, dtype=HALF, device="cuda") for count in (rows, 512))
        cut_by(tiling)(x, weight)


def linears(bandwidth: float) -> None:
    """Print how long each takes."""
    shapes = places()
    jobs = list(product({inputs for _, inputs in shapes.values()}, ROWS))
    with ProcessPoolExecutor(min(os.cpu_count() or 1, 12), multiprocessing.get_context("spawn")) as pool:
        list(pool.map(compile_for, *zip(*jobs, strict=True)))
    kernels = FusedKernels(overlap_launch=True)

    def taken(x: Tensor, weight: Tensor) -> Tensor:
        return kernels.linear(x, Weight(weight, None))

    print("small kernel and product of Qwen3 (/ ranks), us (times the bytes' time): cuBLAS | as layers do | every cut")
    for name, (outputs, inputs) in shapes.items():
        floor = outputs * inputs * 2 / bandwidth * 1e6
        weights = [noise(outputs, inputs) for _ in range(max(3, min(24, int(WEIGHTS_BYTES / outputs / inputs / 2))))]
        for rows in ROWS:
            products = [F.linear, taken, *map(cut_by, cuts(rows, outputs, inputs))]
            gated = name.endswith("down")
            us = [attempt(name, product_us, each, gated, rows, weights) or float("nan") for each in products]
            cells = " | ".join(f"{each:6.1f} ({each / floor:.2f}x)" for each in us[:2])
            chosen = skinny_tiling(rows, inputs, outputs)
            print(
                f"  {name:16s} {rows:3d} rows | {cells} {us[0] / us[1]:.2f}x | "
                f"{', '.join(f'{each:.1f}' for each in us[2:])}; {'cuBLAS' if chosen is None else tuple(chosen)}",
                flush=True,
            )

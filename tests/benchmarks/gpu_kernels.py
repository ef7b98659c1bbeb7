"""Kernels on a GPU, measured one by one: ``python -m tests.benchmarks.gpu_kernels [PART ...]``.

Parts: ``decode`` and ``prefill`` (attention, FlashInfer and ours, and our tilings), ``moe`` (a layer of Qwen3-30B-A3B),
``fp8`` (the linear layers of Qwen3-8B in fp8 and bf16).
Each is captured in a CUDA graph and timed by events, the median of ten; inputs rotate, so that caches do not hold them.
One that fails does not keep the others from running.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (its name everywhere)
import triton

from runtime.attention.base import AttentionMetadata
from runtime.attention.choose import AttentionChoice, gpu_attention
from runtime.kernels import Kernels, Weight, fused_moe, kernels_for, paged_attention
from runtime.kernels.fp8 import FP8, quantize
from runtime.kernels.fused_moe import GroupedTiling
from runtime.kernels.paged_attention import Tiling
from tests.benchmarks.gpu_engine import copy_bandwidth

HEADS, KV_HEADS, HEAD_DIM = 32, 8, 128  # Qwen3-8B's
EXPERTS, CHOSEN, HIDDEN, WIDTH = 128, 8, 2048, 768  # Qwen3-30B-A3B's
LINEARS = {"qkv": (6144, 4096), "o": (4096, 4096), "gate_up": (24576, 4096), "down": (4096, 12288)}  # Qwen3-8B's
VOCABULARY = 151_936  # Qwen3's
HALF = torch.bfloat16
DECODES = ((1, 600), (1, 16384), (16, 600), (64, 600), (256, 600), (256, 1000))  # batch, context
DECODE_TILINGS = (Tiling(16, 64, 4, 5), Tiling(16, 64, 4, 3), Tiling(16, 32, 4, 5), Tiling(16, 128, 4, 3))
PREFILL_TILINGS = (
    Tiling(128, 64, 8, 3),
    Tiling(128, 64, 8, 5),
    Tiling(64, 64, 4, 3),
    Tiling(128, 128, 8, 3),
)
SMALL_TILINGS = (
    GroupedTiling(16, 64, 128, 4, 4),
    GroupedTiling(16, 128, 64, 4, 5),
    GroupedTiling(32, 64, 128, 4, 4),
)
LARGE_TILINGS = (
    GroupedTiling(64, 128, 64, 4, 4),
    GroupedTiling(128, 128, 64, 8, 3),
    GroupedTiling(128, 128, 64, 4, 3),
    GroupedTiling(128, 256, 64, 8, 3),
)
T = TypeVar("T")


def graph_us(calls: list[Callable[[], Any]], repeats: int = 10) -> float:
    """Microseconds of a call: all of them in a CUDA graph, the median of its replays."""
    for call in calls:
        call()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    times = []
    for _ in range(repeats + 2):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e3 / len(calls))
    return statistics.median(times[2:])


def attempt(what: str, work: Callable[..., T], *arguments: Any) -> T | None:
    """One measurement, or None where it fails."""
    try:
        return work(*arguments)
    except Exception as error:
        print(f"  {what} FAILED: {type(error).__name__}: {str(error)[:300]}", flush=True)
        traceback.print_exc(limit=-3)
        return None


@contextmanager
def replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    """A module's constant, for a while."""
    kept = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, kept)


def noise(*shape: int) -> torch.Tensor:
    """Of the size that keeps products of order one."""
    return torch.randn(shape, dtype=HALF, device="cuda") / shape[-1] ** 0.5


def backends() -> list[str]:
    return ["flashinfer", "triton"] if find_spec("flashinfer") else ["triton"]


def attention_us(
    name: str, queries: list[int], lengths: list[int], prefills: int, page_size: int, kv_dtype: torch.dtype = HALF
) -> float:
    """Microseconds of a layer's attention, pages in no order."""
    columns = -(-max(lengths) // page_size)
    slots = len(lengths) * columns * page_size
    layers = max(2, min(64, (256 << 20) // (slots * KV_HEADS * HEAD_DIM * 4)))
    kv = torch.randn(layers, 2, slots, KV_HEADS, HEAD_DIM, dtype=HALF, device="cuda").to(kv_dtype)
    q = torch.randn(sum(queries), HEADS, HEAD_DIM, dtype=HALF, device="cuda")
    pages = np.random.default_rng(0).permutation(slots // page_size).reshape(len(lengths), columns).astype(np.int32)
    unused = torch.zeros(sum(queries), dtype=torch.int64, device="cuda")
    step = gpu_attention(AttentionChoice(name, name), kv, page_size, HEADS).plan(
        AttentionMetadata(np.array(queries), np.array(lengths), pages, prefills, unused)
    )
    return graph_us([partial(step.attend, layer, q) for layer in range(layers)])


def decode_us(name: str, lengths: list[int], page_size: int, kv_dtype: torch.dtype = HALF) -> float:
    return attention_us(name, [1] * len(lengths), lengths, 0, page_size, kv_dtype)


def decode(bandwidth: float) -> None:
    print("decode attention, one layer, 32 query and 8 KV heads of 128: us (TB/s of KV)")
    mixed = np.random.default_rng(1).integers(100, 2048, 128).tolist()
    cases = {f"{batch} x {context}": [context] * batch for batch, context in DECODES} | {"128 x 100 to 2048": mixed}
    for what, lengths in cases.items():
        row = []
        for page_size in (1, 16):
            for name in backends():
                us = attempt(f"{name} {what}", decode_us, name, lengths, page_size)
                if us:
                    row.append(f"{name} page {page_size}: {us:6.1f} ({sum(lengths) * 4096 / us / 1e6:.2f})")
        row.append(f"triton fp8: {attempt(f'fp8 {what}', decode_us, 'triton', lengths, 16, FP8) or 0:6.1f}")
        print(f"  {what:18s} | " + " | ".join(row), flush=True)
    for tiling in DECODE_TILINGS:
        with replaced(paged_attention, "DECODE", tiling):
            found = [attempt(str(tiling), decode_us, "triton", cases[what], 16) for what in ("1 x 600", "64 x 600")]
            found.append(attempt(str(tiling), decode_us, "triton", cases["256 x 1000"], 16))
        print(f"  {tiling}: " + ", ".join(f"{us or 0:.1f}" for us in found), flush=True)


def prefill(bandwidth: float) -> None:
    print("prefill attention, one layer, page 16: us (TFLOP/s)")
    cases = {
        "4 x 2048": ([2048] * 4, [2048] * 4),
        "1 x 8192": ([8192], [8192]),
        "8 x 128 after 4096": ([128] * 8, [4224] * 8),
        "64 x 64 after 512": ([64] * 64, [576] * 64),
    }
    for what, (queries, lengths) in cases.items():
        pairs = sum(q * (n - q) + q * (q + 1) / 2 for q, n in zip(queries, lengths, strict=True))
        row = []
        for name in backends():
            us = attempt(name, attention_us, name, queries, lengths, len(queries), 16)
            row.append(f"{name}: {us or 0:7.1f} ({4 * pairs * HEADS * HEAD_DIM / (us or 1e9) / 1e6:.0f})")
        print(f"  {what:20s} | " + " | ".join(row), flush=True)
    for tiling in PREFILL_TILINGS:
        with replaced(paged_attention, "PREFILL", tiling):
            us = attempt(str(tiling), attention_us, "triton", [2048] * 4, [2048] * 4, 4, 16)
        print(f"  {tiling}: {us or 0:.1f}", flush=True)


class MoeLayers:
    """Four layers' experts of Qwen3-30B-A3B: together they fit in no cache."""

    def __init__(self) -> None:
        self.kernels: Kernels = kernels_for("cuda", HALF)
        self.routers = [noise(EXPERTS, HIDDEN) for _ in range(4)]
        stacks = [[noise(EXPERTS, 2 * WIDTH, HIDDEN), noise(EXPERTS, HIDDEN, WIDTH)] for _ in range(4)]
        self.exact = [[Weight(w, None) for w in stack] for stack in stacks]
        self.rounded = [[Weight(*by_expert(w)) for w in stack] for stack in stacks]

    def layer(self, x: torch.Tensor, index: int, weights: list[Weight]) -> torch.Tensor:
        ids, shares = self.kernels.route(F.linear(x, self.routers[index]), CHOSEN, normalise=True)
        return self.kernels.experts(x, ids, shares, *weights)

    def us(self, tokens: int, layers: list[list[Weight]]) -> float:
        x = torch.randn(tokens, HIDDEN, dtype=HALF, device="cuda")
        return graph_us([partial(self.layer, x, index, weights) for index, weights in enumerate(layers)])

    def parts(self, tokens: int) -> str:
        """Where a layer's time goes."""
        gate_up, down = self.exact[0]
        x = torch.randn(tokens, HIDDEN, dtype=HALF, device="cuda")
        scores = F.linear(x, self.routers[0])
        ids, _ = self.kernels.route(scores, CHOSEN, normalise=True)
        tiling = next(tiling for most, tiling in fused_moe.TILINGS if ids.numel() <= most * EXPERTS)
        sort = partial(fused_moe.sort_by_expert, ids, EXPERTS, tiling.rows, overlap_launch=False)
        product = partial(fused_moe.grouped_product, overlap_launch=False)
        work = sort()
        inner = product(x, gate_up, work, ids.numel(), CHOSEN, tiling)
        gated = self.kernels.silu_and_mul(inner)
        steps: dict[str, Callable[[], Any]] = {
            "router": partial(F.linear, x, self.routers[0]),
            "top-k": partial(self.kernels.route, scores, CHOSEN, normalise=True),
            "sort": sort,
            "gate and up": partial(product, x, gate_up, work, ids.numel(), CHOSEN, tiling),
            "activation": partial(self.kernels.silu_and_mul, inner),
            "down": partial(product, gated, down, work, ids.numel(), 1, tiling),
        }
        return ", ".join(f"{what} {graph_us([step] * 4):.1f}" for what, step in steps.items())


def by_expert(matrices: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantised one by one: the whole in float32 would be large."""
    pairs = [quantize(matrix) for matrix in matrices]
    return torch.stack([values.view(torch.uint8) for values, _ in pairs]).view(FP8), torch.stack([s for _, s in pairs])


def moe(bandwidth: float) -> None:
    print("a layer's experts of Qwen3-30B-A3B with routing, us (times the floor of bytes over bandwidth)")
    layers = MoeLayers()
    for tokens in (1, 16, 64, 256, 2048, 16384):
        x = torch.randn(tokens, HIDDEN, dtype=HALF, device="cuda")
        touched = len(layers.kernels.route(F.linear(x, layers.routers[0]), CHOSEN, normalise=True)[0].unique())
        row = [f"{touched:3d} experts"]
        for what, weights, size in (("bf16", layers.exact, 2), ("fp8", layers.rounded, 1)):
            us = attempt(what, layers.us, tokens, weights)
            if us:
                floor = touched * 3 * WIDTH * HIDDEN * size / bandwidth * 1e6
                flops = tokens * CHOSEN * 6 * WIDTH * HIDDEN / us / 1e6
                row.append(f"{what}: {us:8.1f} ({us / floor:.2f}x, {flops:.0f} TFLOP/s)")
        print(f"  {tokens:6d} tokens | " + " | ".join(row), flush=True)
    for tokens in (1, 64, 16384):
        print(f"  parts at {tokens} tokens, us: {attempt('parts', layers.parts, tokens)}", flush=True)
    for tokens in (1, 16, 64, 256, 2048, 16384):
        found = {}
        for tiling in SMALL_TILINGS if tokens <= 256 else LARGE_TILINGS:
            with replaced(fused_moe, "TILINGS", ((float("inf"), tiling),)):
                found[tuple(tiling)] = attempt(str(tiling), layers.us, tokens, layers.exact) or 1e9
        best = sorted(found, key=lambda tiling: found[tiling])
        print(f"  {tokens:6d} tokens: " + "; ".join(f"{tiling} {found[tiling]:.1f}" for tiling in best), flush=True)


def linears(copies: int) -> dict[str, list[torch.Tensor]]:
    return {name: [noise(*shape) for _ in range(copies)] for name, shape in LINEARS.items()}


def fp8(bandwidth: float) -> None:
    print("the four linear layers of a Qwen3-8B layer: bf16 and fp8 (with rounding of activations), us")
    kernels = kernels_for("cuda", HALF)
    exact = {name: [Weight(w, None) for w in weights] for name, weights in linears(3).items()}
    rounded = {name: [Weight(*quantize(w.values)) for w in weights] for name, weights in exact.items()}
    for rows in (1, 16, 64, 128, 256, 2048, 8192):
        inputs = {name: torch.randn(rows, shape[1], dtype=HALF, device="cuda") for name, shape in LINEARS.items()}
        us = []
        for kind in (exact, rounded):
            calls = [partial(kernels.linear, inputs[name], kind[name][copy]) for copy in range(3) for name in LINEARS]
            us.append(len(LINEARS) * (attempt("linear", graph_us, calls) or 0.0))
        print(f"  {rows:5d} rows | bf16 {us[0]:8.1f} | fp8 {us[1]:8.1f} | {us[0] / (us[1] or 1e9):.2f}x", flush=True)


PARTS: dict[str, Callable[[float], None]] = {
    "decode": decode,
    "prefill": prefill,
    "moe": moe,
    "fp8": fp8,
}


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help="which, in this order; all by default")
    chosen = parser.parse_args().parts or list(PARTS)
    if not set(chosen) <= set(PARTS):
        parser.error(f"parts are {', '.join(PARTS)}")
    print(torch.cuda.get_device_name(), torch.__version__, "triton", triton.__version__)
    bandwidth = copy_bandwidth()
    print(f"device copy {bandwidth / 1e12:.2f} TB/s", flush=True)
    for name in chosen:
        start_s = time.perf_counter()
        attempt(name, PARTS[name], bandwidth)
        gc.collect()
        torch.cuda.empty_cache()
        print(f"  [{name}: {time.perf_counter() - start_s:.1f} s]", flush=True)


if __name__ == "__main__":
    main()

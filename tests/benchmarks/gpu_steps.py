"""Variants of the engine's steps, measured in turn: ``python -m tests.benchmarks.gpu_steps [PART ...]``.

Parts: ``draw`` (choosing tokens: PyTorch and fused), ``linear`` (Qwen3-8B's linear layers for few rows: cuBLAS,
cuBLASLt, and a Triton candidate that fetches weights early, after a small kernel as in a layer), ``decode`` (whole
decode steps of one model: the variants' CUDA graphs over one KV pool, in turn), ``prefill`` (16,384 tokens in a step,
and its products by library). One that fails does not keep the others.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 (its name everywhere)
import yaml
from torch import Tensor

from runtime.attention import flashinfer
from runtime.attention.base import AttentionMetadata
from runtime.attention.choose import AttentionChoice, gpu_attention
from runtime.distributed import SingleCommunicator
from runtime.engine import graphs
from runtime.engine.graphs import DecodeGraphs
from runtime.engine.inputs import StepInputs
from runtime.engine.memory import kv_pool
from runtime.engine.torch_engine import load_model
from runtime.kernels import Kernels, Weight, fused
from runtime.kernels.fused import FusedKernels
from runtime.kernels.fused_sampling import fused_gumbel_argmax
from runtime.kernels.gumbel import gumbel_argmax
from runtime.layers.parts import Placement
from runtime.models.config import ModelConfig, load_model_config
from runtime.models.decoder import CausalLm
from tests.benchmarks.early_fetch import FetchingKernels
from tests.benchmarks.gpu_engine import CONF, copy_bandwidth, floor_ms
from tests.benchmarks.gpu_kernels import LINEARS, attempt, graph_us, linears, noise, replaced
from tests.benchmarks.skinny_gemm import ROWS, SKINNY_TILINGS, SkinnyTiling, skinny_linear

HALF = torch.bfloat16
VOCABULARY = 151_936
BATCHES = (1, 16, 64, 256)
CONTEXT = 576  # tokens: 512 of the prompt and half of 128
PAGE_SIZE = 16
STEPS, ROUNDS = 12, 3
T = TypeVar("T")
AUTO = AttentionChoice("flashinfer", "flashinfer")


def draw(bandwidth: float) -> None:
    """Choosing tokens."""
    print("choosing a token of 151,936, us: argmax | fused, greedy | fused, temperature | reference, temperature")
    for rows in (1, 16, 64, 256):
        logits = [torch.randn(rows, VOCABULARY, device="cuda").to(HALF) for _ in range(2)]
        keys = torch.randint(-(1 << 31), 1 << 31, (rows, 2), device="cuda").to(torch.int32)
        cold, warm = torch.zeros(rows, device="cuda"), torch.full((rows,), 0.8, device="cuda")
        equal = (fused_gumbel_argmax(logits[0], warm, keys) == gumbel_argmax(logits[0], warm, keys)).float().mean()
        argmax_us = graph_us([partial(torch.argmax, x, -1) for x in logits])
        greedy_us, warm_us = (
            graph_us([partial(fused_gumbel_argmax, x, heat, keys) for x in logits]) for heat in (cold, warm)
        )
        plain_us = graph_us([partial(gumbel_argmax, logits[0], warm, keys)], 3)
        print(
            f"  {rows:4d} rows | {argmax_us:7.1f} | {greedy_us:7.1f} | {warm_us:7.1f} | {plain_us:8.1f}; bytes "
            f"{rows * VOCABULARY * 2 / bandwidth * 1e6:.1f}; same tokens {float(equal):.3f}",
            flush=True,
        )


@contextmanager
def library(name: str) -> Iterator[None]:
    """PyTorch's matrix products by this library."""
    kept = torch.backends.cuda.preferred_blas_library()
    torch.backends.cuda.preferred_blas_library(name)
    try:
        yield
    finally:
        torch.backends.cuda.preferred_blas_library(kept)


LT = partial(library, "cublaslt")


def under(contexts: Iterable[Callable[[], AbstractContextManager[None]]], work: Callable[..., T], *arguments: Any) -> T:
    """What work gives, done in these contexts."""
    with ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context())
        return work(*arguments)


def after_norm(kernels: Kernels, product: Callable[[Tensor, Tensor], Tensor], x: Tensor, w: Tensor) -> Tensor:
    """A small kernel and the product of what it leaves: early fetching shows only behind one."""
    return product(kernels.rms_norm(x, w[0, : x.shape[1]], 1e-6), w)


def linear_us(product: Callable[[Tensor, Tensor], Tensor], x: Tensor, weights: list[Tensor]) -> float:
    """Microseconds of norm and product, in a graph, checked."""
    kernels = FusedKernels(overlap_launch=True)
    found, exact = product(x, weights[0]).float(), x.float() @ weights[0].float().T
    error = float((found - exact).norm() / exact.norm())
    if not error < 1e-2:
        raise AssertionError(f"error {error:.1e}")
    return graph_us([partial(after_norm, kernels, product, x, w) for w in weights] * 4)


def skinny_table(bandwidth: float) -> dict[tuple[int, int, int], SkinnyTiling]:
    """The best tiling by outputs, inputs and whether there is one row, printed beside cuBLAS."""
    print("norm and linear layer of Qwen3-8B, us: cuBLAS | cuBLASLt | Triton, weights fetched early (times the floor)")
    best: dict[tuple[int, int, int], SkinnyTiling] = {}
    weights = linears(3)
    for name, (outputs, inputs) in LINEARS.items():
        for rows in (1, 16):
            x = torch.randn(rows, inputs, dtype=HALF, device="cuda")
            floor = outputs * inputs * 2 / bandwidth * 1e6
            cublas = linear_us(F.linear, x, weights[name])
            lt = attempt("cublaslt", under, [LT], linear_us, F.linear, x, weights[name]) or 1e9
            found = {
                tiling: attempt(
                    str(tiling), linear_us, partial(skinny_linear, tiling=tiling, overlap=True), x, weights[name]
                )
                or 1e9
                for tiling in SKINNY_TILINGS
            }
            chosen, every = min(found, key=lambda tiling: found[tiling]), [round(us, 1) for us in found.values()]
            if found[chosen] < cublas:
                best[outputs, inputs, rows] = chosen
            print(
                f"  {name:8s} {rows:3d} rows | {cublas:6.1f} ({cublas / floor:.2f}x) | {lt:6.1f} | "
                f"{found[chosen]:6.1f} ({found[chosen] / floor:.2f}x) {tuple(chosen)}; {every}",
                flush=True,
            )
    return best


class SkinnyKernels(FusedKernels):
    """Fused kernels whose products of few rows go by a table."""

    def __init__(self, table: Mapping[tuple[int, int, int], SkinnyTiling]) -> None:
        super().__init__(overlap_launch=True)
        self._table = table

    def linear(self, x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
        outputs, inputs = weight.values.shape[-2:]
        tiling = self._table.get((outputs, inputs, 1 if len(x) == 1 else ROWS)) if len(x) <= ROWS else None
        if tiling is None or bias is not None or weight.scales is not None:
            return super().linear(x, weight, bias)
        return skinny_linear(x, weight.values, tiling, overlap=True)


@contextmanager
def kernels_of(model: CausalLm, kernels: Kernels) -> Iterator[None]:
    """A model's layers with other kernels, for a while."""
    layers: list[Any] = [module for module in model.modules() if hasattr(module, "_kernels")]
    kept = [layer._kernels for layer in layers]
    for layer in layers:
        layer._kernels = kernels
    try:
        yield
    finally:
        for layer, kernel in zip(layers, kept, strict=True):
            layer._kernels = kernel


class Steps:
    """A model and a KV pool that variants share."""

    def __init__(self, name: str, sequences: int) -> None:
        fields = yaml.safe_load((CONF / f"{name}.yaml").read_text())
        self.config: ModelConfig = load_model_config(fields)
        self.placement = Placement(SingleCommunicator(), torch.device("cuda"), HALF)
        self.model = load_model(fields, self.config, self.placement, 1)
        self.columns = -(-(CONTEXT + STEPS + 8) // PAGE_SIZE)
        pages = sequences * self.columns
        self.pool = kv_pool(self.config, self.placement, pages=pages + 1, page_size=PAGE_SIZE).normal_()
        order = np.random.default_rng(0).permutation(pages).astype(np.int32)
        self.table = order.reshape(sequences, self.columns)
        self.last_token = torch.randint(0, self.config.vocab_size, (sequences + 1,), device="cuda")

    @torch.inference_mode()
    def capture(self, attention: AttentionChoice) -> DecodeGraphs:
        """Graphs of this model at the batch sizes measured."""
        backend = gpu_attention(attention, self.pool, PAGE_SIZE, self.config.num_attention_heads)
        return DecodeGraphs(self.model, backend, self.last_token, largest=max(BATCHES), columns=self.columns)

    @torch.inference_mode()
    def step(self, captured: DecodeGraphs, batch: int, position: int) -> tuple[Tensor, Tensor]:
        """Decode the tokens at a position: logits and rows."""
        rows, positions = np.arange(batch), np.full(batch, position)
        pages = self.table[:batch]
        slots = pages[rows, positions // PAGE_SIZE].astype(np.int64) * PAGE_SIZE + positions % PAGE_SIZE
        ones = np.ones(batch, np.int64)
        hidden, at = captured.run(
            StepInputs(rows[:0], positions, slots, rows, ones, positions + 1, pages, 0, rows, rows)
        )
        return self.model.logits(hidden), at

    @torch.inference_mode()
    def decode_ms(self, captured: DecodeGraphs, batch: int) -> float:
        """Milliseconds of a step with LM head and argmax."""
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        for step in range(STEPS + 2):
            if step == 2:
                start.record()
            logits, at = self.step(captured, batch, CONTEXT + step)
            self.last_token[at] = logits.argmax(dim=-1)
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / STEPS

    @torch.inference_mode()
    def error(self, captured: DecodeGraphs, reference: DecodeGraphs, batch: int) -> float:
        """Of one step's logits against another variant's, relative."""
        exact, found = (self.step(graph, batch, CONTEXT)[0].float() for graph in (reference, captured))
        return float((found - exact).norm() / exact.norm())


def decode(bandwidth: float, name: str, table: Mapping[tuple[int, int, int], SkinnyTiling]) -> None:
    """Whole decode steps, variants in turn."""
    steps = Steps(name, max(BATCHES))
    variants: dict[str, list[Any]] = {  # what differs while it is captured
        "as it is": [],
        "decode on CUDA cores": [partial(replaced, flashinfer, "_TENSOR_CORE_GROUP", 1 << 20)],
        "decode on tensor cores": [partial(replaced, flashinfer, "_TENSOR_CORE_GROUP", 1)],
        "cuBLASLt": [LT],
        "no kernels overlap": [partial(replaced, fused, "OVERLAP_TOKENS", 0)],
        "kernels overlap to 256": [partial(replaced, fused, "OVERLAP_TOKENS", 256)],
        "Triton attention": [],
    }
    for megabytes in (2, 8, 16):
        kernels = FetchingKernels(steps.model, megabytes << 20)
        variants[f"{megabytes} MiB of weights fetched early"] = [partial(kernels_of, steps.model, kernels)]
    if table:
        variants["products fetch weights early"] = [partial(kernels_of, steps.model, SkinnyKernels(table))]
    captured: dict[str, DecodeGraphs] = {}
    graphs.ladder = lambda largest: [size for size in BATCHES if size <= largest]
    for variant, contexts in variants.items():
        attention = AttentionChoice("flashinfer", "triton") if variant == "Triton attention" else AUTO
        found = attempt(variant, under, contexts, steps.capture, attention)
        if found is not None:
            captured[variant] = found
    print(f"decode of {name}, contexts of {CONTEXT}, ms: median of {ROUNDS} rounds of {STEPS} steps, variants in turn")
    floors = [floor_ms(steps.config, steps.model, batch, bandwidth) for batch in BATCHES]
    print(f"  {'floor':30s} | {' | '.join(f'{floor:14.3f}' for floor in floors)}")
    for variant, graph in captured.items():
        errors = [attempt(variant, steps.error, graph, captured["as it is"], batch) for batch in BATCHES]
        if not all(error is not None and error < 2e-2 for error in errors):
            print(f"  WRONG {variant}: logits differ from those as it is by {errors}")
    times: dict[tuple[str, int], list[float]] = {}
    for _ in range(ROUNDS):
        for variant, graph in captured.items():
            for batch in BATCHES:
                found_ms = attempt(f"{variant} {batch}", steps.decode_ms, graph, batch)
                times.setdefault((variant, batch), []).append(found_ms or float("nan"))
    for variant in captured:
        cells = []
        for batch, floor in zip(BATCHES, floors, strict=True):
            ms = statistics.median(times[variant, batch])
            cells.append(f"{ms:7.3f} ({ms / floor:.2f}x)")
        print(f"  {variant:30s} | {' | '.join(cells)}", flush=True)


@torch.inference_mode()
def prefill_ms(steps: Steps, prompts: int, length: int) -> float:
    """Milliseconds of the forward pass of whole prompts."""
    tokens, columns = prompts * length, -(-length // PAGE_SIZE)
    backend = gpu_attention(AUTO, steps.pool, PAGE_SIZE, steps.config.num_attention_heads)
    pages = np.arange(prompts * columns, dtype=np.int32).reshape(prompts, columns)
    counts = np.full(prompts, length)
    ids = torch.randint(0, steps.config.vocab_size, (tokens,), device="cuda")
    positions = torch.arange(length, device="cuda").repeat(prompts)
    slots = torch.arange(tokens, device="cuda")
    times = []
    for _ in range(4):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        planned = backend.plan(AttentionMetadata(counts, counts, pages, prompts, slots))
        steps.model(ids, positions, planned)
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times[1:])


def prefill(name: str) -> None:
    """A prefill step, by library, and its products."""
    steps = Steps(name, 32)  # room for 16,384 tokens
    tokens = 16_384
    for round_ in range(2):
        for choice in ("cublas", "cublaslt"):
            ms = attempt(f"prefill {choice}", under, [partial(library, choice)], prefill_ms, steps, 8, 2048)
            if ms:
                print(f"  prefill 8 x 2048, {choice:8s} (round {round_}): {ms:8.2f} ms, {tokens / ms * 1e3:,.0f} tok/s")
    del steps
    gc.collect()
    torch.cuda.empty_cache()
    for layer, (outputs, inputs) in LINEARS.items():
        x, weights = noise(tokens, inputs), [noise(outputs, inputs)]
        cells = []
        for choice in ("cublas", "cublaslt"):
            calls = [partial(F.linear, x, w) for w in weights]
            us = attempt(choice, under, [partial(library, choice)], graph_us, calls, 5) or 1e9
            cells.append(f"{choice} {us:8.1f} us, {2 * tokens * outputs * inputs / us / 1e6:6.0f} TFLOP/s")
        print(f"  {layer:8s} of {tokens} rows: {' | '.join(cells)}", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["draw", "linear", "decode", "prefill"], metavar="PART")
    parser.add_argument("--model", default="qwen3_8b", help="of conf/model, for decode and prefill (qwen3_8b)")
    arguments = parser.parse_args()
    bandwidth = copy_bandwidth()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, device copy {bandwidth / 1e12:.2f} TB/s")
    table: dict[tuple[int, int, int], SkinnyTiling] = {}
    for part in arguments.parts:
        begun_s = time.perf_counter()
        if part == "draw":
            attempt(part, draw, bandwidth)
        elif part == "linear":
            table = attempt(part, skinny_table, bandwidth) or {}
        elif part == "decode":
            attempt(part, decode, bandwidth, arguments.model, table)
        elif part == "prefill":
            attempt(part, prefill, arguments.model)
        else:
            parser.error(f"{part}: draw, linear, decode or prefill")
        gc.collect()
        torch.cuda.empty_cache()
        print(f"  ({part}: {time.perf_counter() - begun_s:.0f} s)", flush=True)


if __name__ == "__main__":
    main()

"""Variants of the engine's steps, measured in turn: ``python -m tests.benchmarks.gpu_steps [PART ...]``.

Parts: ``draw`` (choosing tokens: PyTorch and fused), ``linear`` (products of few rows, after a small kernel as in a
layer: cuBLAS and ours), ``decode`` (whole decode steps of one model: the variants' CUDA graphs over one
KV pool, in turn, their logits compared with float32's in a shorter model), ``attention`` (the same for small batches:
attention in one kernel, in three, by FlashInfer, and how the one is cut), ``prefill`` (16,384 tokens in a step, and its
products), ``launch`` (what the host needs to launch a step kernel by kernel, with Triton's search for each kernel and
without). One that fails does not keep the others.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable
from collections.abc import Sequence as Many
from contextlib import AbstractContextManager, ExitStack
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812 (its name everywhere)
import yaml
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from runtime.attention import triton as triton_attention
from runtime.attention.base import AttentionMetadata
from runtime.attention.choose import AttentionChoice, gpu_attention
from runtime.attention.torch import TorchAttention
from runtime.distributed import SingleCommunicator
from runtime.engine import graphs
from runtime.engine.engine import Engine
from runtime.engine.graphs import DecodeGraphs
from runtime.engine.inputs import StepInputs
from runtime.engine.memory import kv_pool
from runtime.engine.torch_engine import load_model, make_engine
from runtime.kernels import fused, fused_decode
from runtime.kernels.direct import DirectKernel
from runtime.kernels.fused_decode import FusedTiling
from runtime.kernels.fused_sampling import fused_gumbel_argmax
from runtime.kernels.gumbel import gumbel_argmax
from runtime.layers.parts import Placement
from runtime.models.config import ModelConfig, load_model_config
from runtime.models.registry import build_model
from runtime.scheduler import Batch, Chunk, SchedulerConfig, Sequence, Snapshot
from tests.benchmarks.gpu_engine import CONF, copy_bandwidth, floor_ms, kernel_table
from tests.benchmarks.gpu_kernels import LINEARS, VOCABULARY, attempt, graph_us, noise, replaced
from tests.benchmarks.gpu_linears import linears

HALF = torch.bfloat16
BATCHES = (1, 16, 64, 256)
SMALL_BATCHES = (1, 2, 4, 8, 16, 32, 64)
CONTEXT = 576  # tokens: 512 of the prompt and half of 128
PAGE_SIZE = 16
STEPS, ROUNDS = 12, 3
LAUNCHED_TOKENS = (256, 2048, 8192)
CHECKED_LAYERS = 4
LOGIT_ERROR = 2e-2  # relative, at most: two roundings to bfloat16 of each number
T = TypeVar("T")
Contexts = list[Callable[[], AbstractContextManager[None]]]
Variants = dict[str, tuple[AttentionChoice, Contexts]]  # what they are captured and run in
Captured = dict[str, tuple[DecodeGraphs, Contexts]]
AUTO = AttentionChoice("flashinfer", "flashinfer", small_decodes="triton")
FLASHINFER = AttentionChoice("flashinfer", "flashinfer")
TRITON = AttentionChoice("triton", "triton")
VARIANTS: Variants = {
    "as it is": (AUTO, []),
    "products by cuBLAS": (AUTO, [partial(replaced, fused, "skinny_tiling", lambda *_: None)]),
    "no kernels overlap": (
        AUTO,
        [partial(replaced, module, "OVERLAP_TOKENS", 0) for module in (fused, triton_attention)],
    ),
    "FlashInfer's attention": (FLASHINFER, []),
    "Triton attention": (TRITON, []),
}


# Of captured decodes, whatever their KV.
ONE_KERNEL: Contexts = [
    partial(replaced, graphs, "FUSED_SEQUENCES", max(SMALL_BATCHES)),
    partial(replaced, graphs, "decodes_fused", lambda *_: True),
]
SEVERAL_KERNELS: Contexts = [partial(replaced, graphs, "FUSED_SEQUENCES", 0)]


def one_kernel(
    tokens: int = 64,
    fetched: int = 64,
    warps: int = 4,
    *,
    programs: int = triton_attention._PROGRAMS_A_PROCESSOR,
    least: int = triton_attention.SPLIT_TOKENS,
) -> tuple[AttentionChoice, Contexts]:
    """Attention in one kernel: its tiling, how many programs a processor KV is split for, and its shortest parts."""
    return TRITON, [
        *ONE_KERNEL,
        partial(replaced, triton_attention, "_PROGRAMS_A_PROCESSOR", programs),
        partial(replaced, triton_attention, "SPLIT_TOKENS", least),
        partial(replaced, fused_decode, "TILING", FusedTiling(tokens, fetched, warps)),
    ]


ATTENTION_VARIANTS: Variants = {
    "FlashInfer": (FLASHINFER, []),
    "three kernels": (TRITON, SEVERAL_KERNELS),
    "one kernel": one_kernel(),
    "one, nothing fetched behind": one_kernel(fetched=0),
    "one, 128 fetched behind": one_kernel(fetched=128),
    "one, 32 tokens": one_kernel(32, 32),
    "one, 32 tokens, 128 fetched behind": one_kernel(32, 128),
    "one, 32 tokens, 2 warps": one_kernel(32, 32, 2),
    "one, 128 tokens, 8 warps": one_kernel(128, 0, 8),
    "one, 2 programs a processor": one_kernel(programs=2),
    "one, 8 programs a processor": one_kernel(programs=8),
    "one, parts of 32 and more": one_kernel(32, 32, least=32),
    "one, parts of 128 and more": one_kernel(least=128),
    "one, 128 and more, 2 programs": one_kernel(least=128, programs=2),
}


def of_one_model(doc: str | None, measure: Callable[[str], None]) -> None:
    """A program that measures one model: its ``--model``, by default Qwen3-8B."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qwen3_8b", help="of conf/model (qwen3_8b)")
    arguments = parser.parse_args()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}")
    measure(arguments.model)


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


def under(contexts: Contexts, work: Callable[..., T], *arguments: Any) -> T:
    """What work gives, done in these contexts."""
    with ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context())
        return work(*arguments)


class Steps:
    """A model, whole or its first layers, and a KV pool that variants share.

    Args:
        name: Of conf/model.
        sequences: With a row of the page table each.
        context: Tokens that each has room for, and some more.
        changed: Fields of the model.
    """

    def __init__(self, name: str, sequences: int, context: int = CONTEXT, **changed: Any) -> None:
        fields = yaml.safe_load((CONF / f"{name}.yaml").read_text()) | changed
        self.config: ModelConfig = load_model_config(fields)
        self.placement = Placement(SingleCommunicator(), torch.device("cuda"), HALF)
        self.model = load_model(fields, self.config, self.placement, 1)
        self.columns = -(-(context + STEPS + 8) // PAGE_SIZE)
        pages = sequences * self.columns
        self.pool = kv_pool(self.config, self.placement, pages=pages + 1, page_size=PAGE_SIZE).normal_()
        order = np.random.default_rng(0).permutation(pages).astype(np.int32)
        self.table = order.reshape(sequences, self.columns)
        self.last_token = torch.randint(0, self.config.vocab_size, (sequences + 1,), device="cuda")

    @torch.inference_mode()
    def capture(self, attention: AttentionChoice, batches: Many[int]) -> DecodeGraphs:
        """Graphs of this model at the batch sizes measured."""
        backend = gpu_attention(attention, self.pool, PAGE_SIZE, self.config.num_attention_heads)
        memory = torch.cuda.graph_pool_handle()
        return DecodeGraphs(
            self.model, backend, self.last_token, largest=max(batches), columns=self.columns, pool=memory
        )

    def inputs(self, batch: int, position: int | npt.NDArray[np.int64]) -> StepInputs:
        """A decode of the tokens at a position, the same of all sequences or (batch,) each its own."""
        rows, positions = np.arange(batch), np.full(batch, position)
        pages = self.table[:batch]
        slots = pages[rows, positions // PAGE_SIZE].astype(np.int64) * PAGE_SIZE + positions % PAGE_SIZE
        return StepInputs(
            rows[:0], positions, slots, rows, np.ones(batch, np.int64), positions + 1, pages, 0, rows, rows
        )

    @torch.inference_mode()
    def step(self, captured: DecodeGraphs, batch: int, position: int | npt.NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Run it: logits and rows."""
        hidden, at = captured.run(self.inputs(batch, position))
        return self.model.logits(hidden), at

    @torch.inference_mode()
    def exact_logits(self, batch: int, position: int) -> Tensor:
        """What a decode's logits are in float32."""
        model = build_model(self.config, replace(self.placement, dtype=torch.float32))
        model.load_state_dict({name: weight.float() for name, weight in self.model.state_dict().items()})
        inputs = self.inputs(batch, position)
        slots, positions = (torch.from_numpy(array).cuda() for array in (inputs.slots, inputs.positions))
        step = TorchAttention(self.pool.float(), PAGE_SIZE).plan(
            AttentionMetadata(inputs.query_lengths, inputs.lengths, inputs.pages, 0, slots)
        )
        return model.logits(model(self.last_token[:batch], positions, step))

    @torch.inference_mode()
    def profile(self, captured: DecodeGraphs, batch: int) -> str:
        """Where a decode's time goes; kernels that are launched early count from then."""
        self.decode_ms(captured, batch)
        with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as profiler:
            start_s = time.perf_counter()
            self.decode_ms(captured, batch)
            wall_ms = (time.perf_counter() - start_s) / (STEPS + 2) * 1e3
        return kernel_table(f"decode at batch {batch}", profiler, wall_ms, STEPS + 2)

    @torch.inference_mode()
    def decode_ms(self, captured: DecodeGraphs, batch: int, context: int | npt.NDArray[np.int64] = CONTEXT) -> float:
        """Milliseconds of a step with LM head and argmax."""
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        for step in range(STEPS + 2):
            if step == 2:
                start.record()
            logits, at = self.step(captured, batch, context + step)
            self.last_token[at] = logits.argmax(dim=-1)
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / STEPS


def captured_variants(steps: Steps, variants: Variants, batches: Many[int]) -> Captured:
    """Graphs of what is to be compared."""
    measured_sizes = partial(replaced, graphs, "ladder", lambda _: list(batches))
    captured: Captured = {}
    for variant, (attention, contexts) in variants.items():
        graph = attempt(variant, under, [measured_sizes, *contexts], steps.capture, attention, batches)
        if graph is not None:
            captured[variant] = graph, contexts
    return captured


def logit_errors(name: str, variants: Variants, batches: Many[int]) -> dict[str, list[float]]:
    """Each variant's logits in a model of few layers, against float32's: noise of bfloat16 grows with layers.

    Returns:
        Relative errors by variant, for each batch.
    """
    steps = Steps(name, max(batches), num_hidden_layers=CHECKED_LAYERS)
    exact = steps.exact_logits(max(batches), CONTEXT)
    print(f"logits of {CHECKED_LAYERS} layers of {name}, relative error to float32 at batch {batches}")
    found_errors: dict[str, list[float]] = {}
    for variant, (graph, contexts) in captured_variants(steps, variants, batches).items():
        errors = []
        for batch in batches:
            logits = attempt(variant, under, contexts, steps.step, graph, batch, CONTEXT)
            found = exact[:batch] * 0 if logits is None else logits[0].float()
            errors.append(float((found - exact[:batch]).norm() / exact[:batch].norm()))
        found_errors[variant] = errors
        wrong = "" if max(errors) < LOGIT_ERROR else "  WRONG"
        print(f"  {variant:38s} | {' | '.join(f'{error:.1e}' for error in errors)}{wrong}", flush=True)
    return found_errors


def decode(bandwidth: float, name: str, variants: Variants, batches: Many[int], profiled: dict[str, Many[int]]) -> None:
    """Whole decode steps, variants in turn; some are profiled, at some batch sizes."""
    attempt("logits", logit_errors, name, variants, batches)
    gc.collect()
    torch.cuda.empty_cache()
    steps = Steps(name, max(batches))
    captured = captured_variants(steps, variants, batches)
    print(f"decode of {name}, contexts of {CONTEXT}, ms: median of {ROUNDS} rounds of {STEPS} steps, variants in turn")
    floors = [floor_ms(steps.config, steps.model, batch, bandwidth) for batch in batches]
    print(f"  {'batch':38s} | {' | '.join(f'{batch:14d}' for batch in batches)}")
    print(f"  {'floor':38s} | {' | '.join(f'{floor:14.3f}' for floor in floors)}")
    times: dict[tuple[str, int], list[float]] = {}
    for _ in range(ROUNDS):
        for variant, (graph, contexts) in captured.items():
            for batch in batches:
                found_ms = attempt(f"{variant} {batch}", under, contexts, steps.decode_ms, graph, batch)
                times.setdefault((variant, batch), []).append(found_ms or float("nan"))
    for variant in captured:
        cells = []
        for batch, floor in zip(batches, floors, strict=True):
            ms = statistics.median(times[variant, batch])
            cells.append(f"{ms:7.3f} ({ms / floor:.2f}x)")
        print(f"  {variant:38s} | {' | '.join(cells)}", flush=True)
    for variant, sizes in profiled.items():
        for batch in sizes:
            graph, contexts = captured[variant]
            print(f"{variant}: {attempt('profile', under, contexts, steps.profile, graph, batch)}")


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
    """A prefill step, and its products."""
    steps = Steps(name, 32)  # room for 16,384 tokens
    tokens = 16_384
    for round_ in range(2):
        ms = attempt("prefill", prefill_ms, steps, 8, 2048)
        if ms:
            print(f"  prefill 8 x 2048 (round {round_}): {ms:8.2f} ms, {tokens / ms * 1e3:,.0f} tok/s")
    del steps
    gc.collect()
    torch.cuda.empty_cache()
    for layer, (outputs, inputs) in LINEARS.items():
        us = attempt(layer, graph_us, [partial(F.linear, noise(tokens, inputs), noise(outputs, inputs))], 5) or 1e9
        rate = 2 * tokens * outputs * inputs / us / 1e6
        print(f"  {layer:8s} of {tokens} rows: {us:8.1f} us, {rate:6.0f} TFLOP/s", flush=True)


def launch_ms(engine: Engine[Any], table: npt.NDArray[np.int32], tokens: int) -> tuple[float, float]:
    """Milliseconds of the host to launch a prompt's step while the device has nothing to do, and of the device to run.

    Medians, but for the first two steps, which may load a kernel.
    """
    columns = -(-tokens // PAGE_SIZE)
    table[0, :columns] = np.arange(columns)
    sequence = Sequence(0, tokens, np.zeros(tokens + 1, np.int32), 1, foretold_tokens=1)
    sequence.row = 0
    launches, runs = [], []
    for step in range(STEPS + 2):
        batch = Batch(step, [Chunk(sequence, 0, tokens, True)], [], [], [], Snapshot(0, 0, 0, 0, 0, 0))
        begun_s = time.perf_counter()
        ticket = engine.launch(batch)
        launches.append(time.perf_counter() - begun_s)
        run = engine.collect(ticket).run
        runs.append(run.duration_s if run else 0.0)
    return statistics.median(launches[2:]) * 1e3, statistics.median(runs[2:]) * 1e3


def triton_launch(kernel: DirectKernel, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
    """What a kernel's launch is without :mod:`runtime.kernels.direct`."""
    kernel.jitted[grid](*arguments, **constants)


def launch(name: str) -> None:
    """Eager steps, launched both ways in turn."""
    steps = Steps(name, 1)
    sizes = SchedulerConfig(-(-max(LAUNCHED_TOKENS) // PAGE_SIZE), PAGE_SIZE, 4, max(LAUNCHED_TOKENS))
    table = np.zeros((sizes.max_running, sizes.max_row_pages), np.int32)
    engine = make_engine(steps.config, steps.model, steps.placement, sizes, table, cuda_graph=False)
    ways: dict[str, Contexts] = {
        "Triton's search": [partial(replaced, DirectKernel, "_launch", triton_launch)],
        "as it is": [],
    }
    print(f"eager steps of {name}, {steps.config.num_hidden_layers} layers: ms to launch | ms on the device")
    for round_ in range(ROUNDS):
        for way, contexts in ways.items():
            found = [under(contexts, launch_ms, engine, table, tokens) for tokens in LAUNCHED_TOKENS]
            cells = (f"{n} tokens {ms:6.2f} | {ran:6.2f}" for n, (ms, ran) in zip(LAUNCHED_TOKENS, found, strict=True))
            print(f"  {way:16s} (round {round_}): {'; '.join(cells)}", flush=True)
    engine.close()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["draw", "linear", "decode", "prefill"], metavar="PART")
    parser.add_argument("--model", default="qwen3_8b", help="of conf/model, for all but draw and linear (qwen3_8b)")
    arguments = parser.parse_args()
    bandwidth = copy_bandwidth()
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, device copy {bandwidth / 1e12:.2f} TB/s")
    for part in arguments.parts:
        begun_s = time.perf_counter()
        if part == "draw":
            attempt(part, draw, bandwidth)
        elif part == "linear":
            attempt(part, linears, bandwidth)
        elif part == "decode":
            attempt(part, decode, bandwidth, arguments.model, VARIANTS, BATCHES, {"as it is": (1, 64, 256)})
        elif part == "attention":
            profiled = {"FlashInfer": (1, 16), "three kernels": (1, 16), "one kernel": (1, 16)}
            attempt(part, decode, bandwidth, arguments.model, ATTENTION_VARIANTS, SMALL_BATCHES, profiled)
        elif part == "prefill":
            attempt(part, prefill, arguments.model)
        elif part == "launch":
            attempt(part, launch, arguments.model)
        else:
            parser.error(f"{part}: draw, linear, decode, attention, prefill or launch")
        gc.collect()
        torch.cuda.empty_cache()
        print(f"  ({part}: {time.perf_counter() - begun_s:.0f} s)", flush=True)


if __name__ == "__main__":
    main()

"""The engine on a GPU, measured: ``python -m tests.benchmarks.gpu_engine [--help]`` prints a table.

Decode: 512-token prompts, mean of 128 steps, as served (with overlap). Prefill: 16 prompts of 2,048 tokens. Offline:
256 requests, lengths uniform from 100 to 1,024, all at once (nano-vllm's benchmark). Weights are random, sampling is
greedy. What fails does not keep the rest, and --out is written after each engine.
"""

from __future__ import annotations

import argparse
import gc
import random
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml

from policies import build_policy
from runtime.distributed import SingleCommunicator
from runtime.engine.engine import Engine, StepResult
from runtime.engine.memory import pages_on_gpu
from runtime.engine.offline import run_offline
from runtime.engine.params import GREEDY, SamplingParams
from runtime.engine.torch_engine import load_model, make_engine
from runtime.layers.parts import Placement
from runtime.models.config import ModelConfig, load_model_config
from runtime.models.decoder import CausalLm
from runtime.scheduler import Batch, Scheduler, SchedulerConfig, Sequence, StepOutputs
from tests.benchmarks.engine_table import Figures, markdown, save

CONF = Path(__file__).parents[2] / "conf" / "model"
POLICY = {
    "order": {"name": "fcfs"},
    "batching": {"name": "prefill_first", "step_tokens": 16384},
    "reservation": {"name": "full"},
    "preemption": {"name": "newest"},
    "eviction": {"name": "lru"},
    "prediction": {"name": "max_tokens"},
}
PROMPT, STEPS = 512, 128
DRAWN = (64, 256)  # batches that are also measured with a temperature
CPU_PAGES = 16_384


class Case(NamedTuple):
    """An engine.

    Attributes:
        page_size: Tokens of a page.
        attention: Backends.
        cuda_graph: Whether there are graphs.
        fp8_weights: Whether weights are in fp8.
        fp8_kv: Whether KV is.
    """

    page_size: int
    attention: str
    cuda_graph: bool
    fp8_weights: bool
    fp8_kv: bool

    def __str__(self) -> str:
        weights, kv = ("fp8" if fp8 else "bf16" for fp8 in (self.fp8_weights, self.fp8_kv))
        return f"{weights}, {kv}, {self.attention}, {self.page_size}{'' if self.cuda_graph else ', no graphs'}"


def case(text: str) -> Case:
    """``PAGE_SIZE:ATTENTION:graph|eager[:WEIGHTS/KV]``, the last bf16 or fp8."""
    page_size, attention, graph, *dtypes = text.split(":")
    weights, kv = (dtypes or ["bf16/bf16"])[0].split("/")
    return Case(int(page_size), attention, graph == "graph", weights == "fp8", kv == "fp8")


class Timed(Engine[Any]):
    """An engine whose host time is counted.

    Attributes:
        launch_s: Spent launching.
        wait_s: Spent waiting for steps to end.
        launches: How many.
    """

    def __init__(self, engine: Engine[Any]) -> None:
        self._engine = engine
        self.reset()

    def reset(self) -> None:
        """Count anew."""
        self.launch_s, self.wait_s, self.launches = 0.0, 0.0, 0

    def admit(self, request_id: int, params: SamplingParams) -> None:
        self._engine.admit(request_id, params)

    def forget(self, request_id: int) -> None:
        self._engine.forget(request_id)

    def launch(self, batch: Batch) -> Any:
        start_s = time.perf_counter()
        ticket = self._engine.launch(batch)
        self.launch_s += time.perf_counter() - start_s
        self.launches += 1
        return ticket

    def collect(self, ticket: Any) -> StepResult:
        start_s = time.perf_counter()
        result = self._engine.collect(ticket)
        self.wait_s += time.perf_counter() - start_s
        return result

    def close(self) -> None:
        self._engine.close()


class Bench:
    """A model with an engine and a scheduler of its own."""

    def __init__(
        self, config: ModelConfig, model: CausalLm, placement: Placement, *, page_size: int, **engine: Any
    ) -> None:
        self.placement = placement
        pages = CPU_PAGES
        if placement.device.type == "cuda":
            pages = pages_on_gpu(config, placement, 7 << 30, page_size=page_size, fraction=0.9)
        sizes = SchedulerConfig(pages, page_size, 256, 2304)
        self.config, self.model, self.pages = config, model, pages
        self.scheduler = Scheduler(sizes, build_policy(POLICY))
        start_s = time.perf_counter()
        self.engine = Timed(make_engine(config, model, placement, sizes, self.scheduler.memory.table, **engine))
        self.synchronize()
        self.build_s = time.perf_counter() - start_s
        self.first_id = 0
        self.random = np.random.default_rng(0)

    def synchronize(self) -> None:
        """Wait until the device has nothing to do."""
        if self.placement.device.type == "cuda":
            torch.cuda.synchronize()

    def sequences(self, shapes: list[tuple[int, int]]) -> list[Sequence]:
        """Requests of (prompt, output) tokens, random prompts."""
        self.first_id += len(shapes)
        made = []
        for index, (prompt, outputs) in enumerate(shapes):
            tokens = self.random.integers(0, self.config.vocab_size, prompt).astype(np.int32)
            made.append(Sequence(self.first_id + index, prompt, tokens, outputs))
        return made

    def steps(self, shapes: list[tuple[int, int]], params: SamplingParams = GREEDY) -> Iterator[StepOutputs]:
        """Run requests to their ends."""
        sequences = self.sequences(shapes)
        for sequence in sequences:
            self.engine.admit(sequence.request_id, params)
        for event in run_offline(self.scheduler, self.engine, sequences):
            assert isinstance(event, tuple), event
            yield event[0]
        for sequence in sequences:
            self.engine.forget(sequence.request_id)

    def decode(self, batch: int, params: SamplingParams = GREEDY) -> dict[str, float]:
        """Milliseconds of a decode step, and what the host spends of it."""
        times: list[float] = []
        for outputs in self.steps([(PROMPT, STEPS + 40)] * batch, params):
            if outputs.prefilled == 0 and len(outputs.sequences) == batch:
                times.append(time.perf_counter())
                if len(times) == 20:
                    self.engine.reset()
        used = times[20 : 20 + STEPS]
        launches = max(self.engine.launches, 1)
        return {
            "ms": (used[-1] - used[0]) / (len(used) - 1) * 1e3,
            "launch_ms": self.engine.launch_s / launches * 1e3,
            "wait_ms": self.engine.wait_s / launches * 1e3,
        }

    def prefill(self, count: int, length: int) -> float:
        """Prompt tokens a second."""
        self.synchronize()
        start_s = time.perf_counter()
        for _ in self.steps([(length, 1)] * count):
            pass
        return count * length / (time.perf_counter() - start_s)

    def offline(self) -> dict[str, float]:
        """The offline workload: output tokens a second."""
        drawn = random.Random(0)
        prompts = [[drawn.randint(0, 10000) for _ in range(drawn.randint(100, 1024))] for _ in range(256)]
        shapes = [(len(prompt), drawn.randint(100, 1024)) for prompt in prompts]
        print(f"    {sum(p for p, _ in shapes)} prompt, {sum(o for _, o in shapes)} output tokens")
        self.engine.reset()
        start_s, decode_s, steps, last_s = time.perf_counter(), 0.0, 0, 0.0
        for outputs in self.steps(shapes):
            now = time.perf_counter()
            if last_s and not outputs.prefilled:
                decode_s += now - last_s
            last_s, steps = now, steps + 1
        total_s = time.perf_counter() - start_s
        return {
            "tok/s": sum(o for _, o in shapes) / total_s,
            "s": total_s,
            "decode_s": decode_s,
            "steps": steps,
            "launch_ms": self.engine.launch_s / self.engine.launches * 1e3,
            "wait_ms": self.engine.wait_s / self.engine.launches * 1e3,
        }

    def profile(self, batch: int, steps: int = 10) -> str:
        """Where the GPU's time goes in decodes: kernels, most first."""
        from torch.profiler import ProfilerActivity, profile

        events = self.steps([(PROMPT, 60)] * batch)
        seen = 0
        for outputs in events:
            seen += outputs.prefilled == 0
            if seen == 20:
                break
        with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as profiler:
            start_s = time.perf_counter()
            for _ in range(steps):
                next(events)
            wall_ms = (time.perf_counter() - start_s) / steps * 1e3
        for _ in events:
            pass
        return kernel_table(f"decode at batch {batch}", profiler, wall_ms, steps)

    def profile_prefill(self, count: int, length: int) -> str:
        """The same for whole prompts, a step being all of them."""
        from torch.profiler import ProfilerActivity, profile

        with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as profiler:
            wall_ms = count * length / self.prefill(count, length) * 1e3
        return kernel_table(f"prefill {count} x {length}", profiler, wall_ms, 1)


def kernel_table(what: str, profiler: Any, wall_ms: float, steps: int) -> str:
    """The kernels that took most time."""
    rows = sorted(profiler.key_averages(), key=lambda e: -e.device_time_total)
    busy_ms = sum(e.device_time_total for e in rows) / steps / 1e3
    lines = [f"    profile of {what}: step {wall_ms:.3f} ms under the profiler, kernels {busy_ms:.3f} ms"]
    for event in rows[:14]:
        lines.append(f"      {event.device_time_total / steps:9.1f} us {event.count / steps:7.1f}x {event.key[:100]}")
    return "\n".join(lines)


def copy_bandwidth() -> float:
    """Bytes a second of a device copy, read and written."""
    source = torch.empty(2 << 30, dtype=torch.uint8, device="cuda").random_()
    target = torch.empty_like(source)
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    target.copy_(source)
    start.record()
    for _ in range(10):
        target.copy_(source)
    end.record()
    torch.cuda.synchronize()
    return float(10 * 2 * source.numel() / (start.elapsed_time(end) / 1e3))


def floor_ms(
    config: ModelConfig, model: CausalLm, batch: int, bandwidth: float, ranks: int = 1, kv_bytes: int = 2
) -> float:
    """Milliseconds in which a decode's weights and KV, a rank's share of them, can be read.

    Args:
        config: The model's shape.
        model: With its weights, of experts (experts, outputs, inputs); of those as many are read as batches of tokens
            that choose alike would touch.
        batch: Sequences.
        bandwidth: Bytes a second.
        ranks: Over which the model is divided.
        kv_bytes: Of a number of KV.
    """
    weights = 0.0
    for matrix in model.parameters():
        untouched = 0.0
        if config.moe is not None and matrix.dim() == 3:
            untouched = (1 - config.moe.num_experts_per_tok / config.moe.num_experts) ** batch
        weights += matrix.numel() * matrix.element_size() * (1 - untouched)
    if not config.tie_word_embeddings:
        weights -= config.vocab_size * config.hidden_size * 2 // ranks
    context = PROMPT + 20 + STEPS / 2
    kv = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * kv_bytes * batch * context
    return (weights + kv / ranks) / bandwidth * 1e3


def guarded(what: str, work: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """One measurement; where it fails the others go on."""
    try:
        return work(*arguments, **options)
    except Exception:
        print(f"  {what} FAILED")
        traceback.print_exc()
        return None


class Run:
    """Engines measured one behind the other; each model is loaded once for cases of like weights in a row."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._on_gpu = arguments.device == "cuda"
        self._device = torch.device(arguments.device)
        self._name = torch.cuda.get_device_name() if self._on_gpu else "CPU"
        self._bandwidth = copy_bandwidth() if self._on_gpu else 1e10
        self._loaded: tuple[tuple[str, bool], ModelConfig, CausalLm] | None = None
        self.found: list[Figures] = []
        print(f"{self._name}, torch {torch.__version__}, device copy {self._bandwidth / 1e12:.2f} TB/s", flush=True)

    def measure(self, name: str, kind: Case) -> None:
        """One engine."""
        arguments = self._arguments
        dtype = torch.bfloat16 if self._on_gpu else torch.float32
        placement = Placement(SingleCommunicator(), self._device, dtype, kind.fp8_weights, kind.fp8_kv)
        config, model = self._model(name, placement)
        self._clear()
        print(f"  {name}: {kind}", flush=True)
        bench = Bench(
            config, model, placement, page_size=kind.page_size, attention=kind.attention, cuda_graph=kind.cuda_graph
        )
        print(f"    built in {bench.build_s:.1f} s, {bench.pages} pages", flush=True)
        figures = Figures(name, self._name, str(kind), bench.pages, bench.build_s)
        self.found.append(figures)
        batches = [batch for batch in arguments.batches if bench.pages * kind.page_size > batch * (PROMPT + STEPS + 40)]
        measure_steps(bench, figures, batches, self._bandwidth)
        if arguments.offline:
            offline = guarded("offline", bench.offline)
            print(f"    offline: {offline}", flush=True)
            figures.offline = offline and offline["tok/s"]
        for batch in arguments.profile:
            print(guarded("profile", bench.profile, batch))
        if arguments.profile:
            print(guarded("profile", bench.profile_prefill, 8, 2048))
        bench.engine.close()
        if self._on_gpu:
            print(f"    most memory {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB", flush=True)

    def _model(self, name: str, placement: Placement) -> tuple[ModelConfig, CausalLm]:
        key = name, placement.fp8_weights
        if self._loaded is None or self._loaded[0] != key:
            self._loaded = None
            self._clear()
            fields = yaml.safe_load((CONF / f"{name}.yaml").read_text())
            config, start_s = load_model_config(fields), time.perf_counter()
            self._loaded = key, config, load_model(fields, config, placement, 1)
            print(f"{name}: weights in {time.perf_counter() - start_s:.1f} s", flush=True)
        return self._loaded[1:]

    def _clear(self) -> None:
        """What earlier engines held is free again."""
        gc.collect()
        if self._on_gpu:
            torch.cuda.empty_cache()


def measure_steps(bench: Bench, figures: Figures, batches: list[int], bandwidth: float) -> None:
    """Decodes and prefill, printed as they come."""
    guarded("warm-up", lambda: list(bench.steps([(100, 20)] * 40)))
    kv_bytes = bench.placement.kv_dtype.itemsize
    for batch in batches:
        found = guarded("decode", bench.decode, batch)
        if found:
            floor = floor_ms(bench.config, bench.model, batch, bandwidth, kv_bytes=kv_bytes)
            figures.decode_ms[batch], figures.floor_ms[batch] = found["ms"], floor
            print(
                f"    decode {batch:4d}: {found['ms']:7.3f} ms, {found['ms'] / floor:.2f}x of the floor {floor:.3f}; "
                f"host: launch {found['launch_ms']:.3f}, wait {found['wait_ms']:.3f} ms",
                flush=True,
            )
    for batch in sorted(set(batches) & set(DRAWN)):
        found = guarded("temperature", bench.decode, batch, SamplingParams(temperature=0.8))
        if found:
            figures.warm_ms[batch] = found["ms"]
            print(f"    decode {batch:4d} at temperature 0.8: {found['ms']:7.3f} ms", flush=True)
    for _ in range(2):  # the first compiles
        figures.prefill = guarded("prefill", bench.prefill, 16, 2048)
    print(f"    prefill 16 x 2048: {figures.prefill or 0:,.0f} tok/s", flush=True)


def main() -> int:
    """Measure and print.

    Returns:
        1 where an engine failed.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["qwen3_0_6b", "qwen3_8b"], help="of conf/model")
    parser.add_argument(
        "--cases",
        nargs="+",
        type=case,
        default=[case("16:auto:graph")],
        metavar="PAGE_SIZE:ATTENTION:graph|eager[:WEIGHTS/KV]",
        help="(16:auto:graph, which is :bf16/bf16)",
    )
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 16, 64, 256], help="of decodes (1 16 64 256)")
    parser.add_argument("--profile", nargs="*", type=int, default=[], help="of these batches, the kernels by time")
    parser.add_argument("--no-offline", dest="offline", action="store_false")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: in float32, to try this script")
    parser.add_argument("--out", type=Path, help="JSON file")
    arguments = parser.parse_args()
    run, codes = Run(arguments), [0]
    for name, kind in product(arguments.models, arguments.cases):
        try:
            run.measure(name, kind)
        except Exception as error:  # the next may fit
            codes.append(1)
            print(f"  {name}, {kind} FAILED: {type(error).__name__}: {str(error)[:300]}")
            traceback.print_exc()
        if arguments.out is not None:
            save(run.found, arguments.out)
    print(markdown(run.found), flush=True)
    return max(codes)


if __name__ == "__main__":
    sys.exit(main())

"""The engine on a GPU, measured: ``python -m tests.benchmarks.gpu_engine [--help]`` prints a table.

Decode: 512-token prompts, mean of 128 steps, as served (with overlap). Prefill: 16 prompts of 2,048 tokens. Offline:
256 requests, lengths uniform from 100 to 1,024, all at once (nano-vllm's benchmark). Weights are random, sampling is
greedy.
"""

from __future__ import annotations

import argparse
import gc
import random
import subprocess
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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
# mini-sglang on one H100 80GB: decode ms at 1, 16, 64, 256; prefill tok/s; offline tok/s.
PEER: dict[str, dict[str, Any]] = {
    "qwen3_0_6b": {"decode": {1: 1.53, 16: 1.93, 64: 3.26, 256: 8.39}, "prefill": 325_900, "offline": 18_180},
    "qwen3_8b": {"decode": {1: 6.78, 16: 7.44, 64: 9.66, 256: 16.96}, "prefill": 42_450, "offline": 7_600},
}


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
        pages = pages_on_gpu(config, placement, 7 << 30, page_size=page_size, fraction=0.9)
        sizes = SchedulerConfig(pages, page_size, 256, 2304)
        self.config, self.model, self.pages = config, model, pages
        self.scheduler = Scheduler(sizes, build_policy(POLICY))
        start_s = time.perf_counter()
        self.engine = Timed(make_engine(config, model, placement, sizes, self.scheduler.memory.table, **engine))
        torch.cuda.synchronize()
        self.build_s = time.perf_counter() - start_s
        self.first_id = 0
        self.random = np.random.default_rng(0)

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
        torch.cuda.synchronize()
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


def floor_ms(config: ModelConfig, model: CausalLm, batch: int, bandwidth: float, ranks: int = 1) -> float:
    """Milliseconds in which a decode's weights and KV, a rank's share of them, can be read."""
    weights = sum(p.numel() * p.element_size() for p in model.parameters())
    if not config.tie_word_embeddings:
        weights -= config.vocab_size * config.hidden_size * 2 // ranks
    context = PROMPT + 20 + STEPS / 2
    kv = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 2 * batch * context
    return (weights + kv / ranks) / bandwidth * 1e3


def guarded(what: str, work: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """One measurement; where it fails the others go on."""
    try:
        return work(*arguments, **options)
    except Exception:
        print(f"  {what} FAILED")
        traceback.print_exc()
        return None


def measure(name: str, arguments: argparse.Namespace, bandwidth: float) -> None:
    """One model."""
    fields = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    config = load_model_config(fields)
    placement = Placement(SingleCommunicator(), torch.device("cuda"), torch.bfloat16)
    start_s = time.perf_counter()
    model = load_model(fields, config, placement, 1)
    torch.cuda.synchronize()
    print(f"{name}: {torch.cuda.memory_allocated() / 2**30:.2f} GiB in {time.perf_counter() - start_s:.1f} s")
    for page_size, attention, cuda_graph in arguments.variants:
        gc.collect()
        torch.cuda.empty_cache()
        print(f"  {attention} page {page_size} {'graphs' if cuda_graph else 'eager'}")
        bench = guarded(
            "engine", Bench, config, model, placement, page_size=page_size, attention=attention, cuda_graph=cuda_graph
        )
        if bench is not None:
            reference = attention == "torch"
            report(bench, PEER.get(name, {}), [16] if reference else arguments.batches, bandwidth)
            if not reference:
                more(bench, PEER.get(name, {}), arguments)
            bench.engine.close()
        print(f"    most memory {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB", flush=True)
        del bench


def report(bench: Bench, peer: dict[str, Any], batches: list[int], bandwidth: float) -> None:
    """Decode steps."""
    free, _ = torch.cuda.mem_get_info()
    print(f"    built in {bench.build_s:.1f} s, {bench.pages} pages, {free / 2**30:.1f} GiB left")
    guarded("warm-up", lambda: list(bench.steps([(100, 20)] * 40)))
    for batch in batches:
        found = guarded("decode", bench.decode, batch)
        if found:
            floor = floor_ms(bench.config, bench.model, batch, bandwidth)
            print(
                f"    decode {batch:4d}: {found['ms']:7.3f} ms, {found['ms'] / floor:.2f}x of the floor {floor:.3f}, "
                f"peer {peer.get('decode', {}).get(batch)}; "
                f"host: launch {found['launch_ms']:.3f}, wait {found['wait_ms']:.3f} ms"
            )
    for batch in batches:
        if batch in DRAWN:
            found = guarded("temperature", bench.decode, batch, SamplingParams(temperature=0.8)) or {}
            print(f"    decode {batch:4d} at temperature 0.8: {found.get('ms', float('nan')):7.3f} ms")


def more(bench: Bench, peer: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Prefill, the offline workload, profiles."""
    for _ in range(2):  # the first compiles
        rate = guarded("prefill", bench.prefill, 16, 2048)
    print(f"    prefill 16 x 2048: {rate or 0:,.0f} tok/s, peer {peer.get('prefill')}")
    if arguments.offline:
        print(f"    offline: {guarded('offline', bench.offline)}, peer {peer.get('offline')}")
    for batch in arguments.profile:
        print(guarded("profile", bench.profile, batch))
    if arguments.profile:
        print(guarded("profile", bench.profile_prefill, 8, 2048))


def variant(text: str) -> tuple[int, str, bool]:
    """``page size:attention:graph|eager``."""
    page_size, attention, graph = text.split(":")
    return int(page_size), attention, graph == "graph"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="*", default=["qwen3_0_6b", "qwen3_8b"])
    parser.add_argument(
        "--variants", nargs="*", type=variant, default=[variant("1:auto:graph"), variant("16:auto:graph")]
    )
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 16, 64, 256])
    parser.add_argument("--profile", nargs="*", type=int, default=[1, 256])
    parser.add_argument("--no-offline", dest="offline", action="store_false")
    arguments = parser.parse_args()
    print(subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout.strip(), torch.__version__)
    bandwidth = copy_bandwidth()
    print(f"device copy {bandwidth / 1e12:.2f} TB/s")
    for name in arguments.models:
        guarded(name, measure, name, arguments, bandwidth)
        gc.collect()
        torch.cuda.empty_cache()


if __name__ == "__main__":
    main()

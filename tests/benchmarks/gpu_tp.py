"""Tensor parallelism, checked and measured: ``python -m tests.benchmarks.gpu_tp --tp 2 [--help]`` starts the ranks.

Check: sums over ranks are right, alike on all of them, also in CUDA graphs and one after another without a pause; a
small model says with ranks what it says without. Speed: the sums by size, and a large model's decode (512-token
prompts, mean of 128 steps) and offline workload, with small sums through symmetric memory and with NCCL alone.
``--device cpu`` runs the checks over gloo.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from policies import build_policy
from runtime.attention.base import AttentionMetadata
from runtime.attention.torch import TorchAttention
from runtime.distributed import Communicator, SingleCommunicator
from runtime.distributed.connect import connect, gpu_of
from runtime.distributed.symmetric import PeerCommunicator, reduction_for
from runtime.engine import graphs
from runtime.engine.memory import kv_pool
from runtime.engine.offline import run_offline
from runtime.engine.torch_engine import load_model, make_engine
from runtime.layers.parts import Placement
from runtime.models.config import ModelConfig, load_model_config
from runtime.models.decoder import CausalLm
from runtime.scheduler import Scheduler, SchedulerConfig, Sequence
from tests.benchmarks.gpu_engine import CONF, Bench, copy_bandwidth, floor_ms, guarded

WIDTH = 5120
TOKENS = (1, 3, 16, 64, 256, 2048, 8192)
SMALL: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "hidden_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 1024,
    "vocab_size": 8192,
    "max_position_embeddings": 4096,
    "rope_theta": 1000000,
    "torch_dtype": "bfloat16",
}
POLICY = {
    "order": {"name": "fcfs"},
    "batching": {"name": "chunked", "step_tokens": 512},
    "reservation": {"name": "full"},
    "preemption": {"name": "newest"},
    "eviction": {"name": "lru"},
    "prediction": {"name": "max_tokens"},
}
# mini-sglang with NCCL on H200s: decode ms at 1, 16, 64; offline tok/s.
PEER: dict[tuple[str, int], tuple[dict[int, float], int | None]] = {
    ("qwen3_32b", 1): ({1: 19.0, 16: 19.7, 64: 23.8}, None),
    ("qwen3_32b", 2): ({1: 12.0, 16: 12.7, 64: 14.7}, 4830),
    ("qwen3_32b", 4): ({1: 7.9, 16: 8.7, 64: 10.2}, 7820),
}


class Switch(Communicator):
    """Sums in one of two ways; graphs keep the way of their capture.

    Attributes:
        peer: Whether small sums go through peer memory.
    """

    def __init__(self, communicator: Communicator) -> None:
        self.rank, self.size = communicator.rank, communicator.size
        self._fast = communicator
        self._plain: Communicator = communicator._group if isinstance(communicator, PeerCommunicator) else communicator
        self.peer = True

    @property
    def ways(self) -> list[bool]:
        """What ``peer`` can be."""
        return [True, False] if self._fast is not self._plain else [False]

    def all_reduce(self, tensor: Tensor) -> Tensor:
        return (self._fast if self.peer else self._plain).all_reduce(tensor)

    def all_gather(self, tensor: Tensor) -> Tensor:
        return self._plain.all_gather(tensor)

    def broadcast(self, tensor: Tensor, source: int = 0) -> Tensor:
        return self._plain.broadcast(tensor, source)

    def barrier(self) -> None:
        self._plain.barrier()

    def close(self) -> None:
        self._plain.close()


class Rank:
    """One rank of a run: where it is, and who speaks."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        rank, tp = arguments.rank, arguments.tp
        self.device = gpu_of(rank, tp) if arguments.device == "cuda" else torch.device("cpu")
        self.on_gpu = self.device.type == "cuda"
        self.dtype = torch.bfloat16 if self.on_gpu else torch.float32
        self.communicator = Switch(connect(rank, tp, arguments.rendezvous, self.device))
        self.placement = Placement(self.communicator, self.device, self.dtype)

    def say(self, line: str) -> None:
        """Rank 0 speaks for all."""
        if self.communicator.rank == 0:
            print(line, flush=True)

    # Sums.

    def check_sums(self) -> None:
        """Right, and the same everywhere."""
        for peer in self.communicator.ways:
            self.communicator.peer = peer
            for tokens in TOKENS:
                self._check_sum(tokens, lambda x: self.communicator.all_reduce(x.clone()), f"peer={peer} eager")
                if self.on_gpu:
                    self._check_sum(tokens, self._in_a_graph(tokens), f"peer={peer} graph")
            self._check_row_of_sums(peer)
        self.say("sums: done")

    def _noise(self, tokens: int, seed: int) -> Tensor:
        generator = torch.Generator(self.device).manual_seed(1000 * seed + self.communicator.rank)
        return torch.randn(tokens, WIDTH, generator=generator, device=self.device).to(self.dtype)

    def _expected(self, mine: Tensor) -> Tensor:
        size = self.communicator.size
        return self.communicator.all_gather(mine.flatten()).view(size, -1).float().sum(0).view_as(mine)

    def _check_sum(self, tokens: int, reduce: Callable[[Tensor], Tensor], what: str) -> None:
        for seed in range(2):
            mine = self._noise(tokens, seed)
            exact, found = self._expected(mine), reduce(mine)
            error = float((found.float() - exact).norm() / exact.norm())
            everywhere = self.communicator.all_gather(found.flatten().float()).view(self.communicator.size, -1)
            alike = bool((everywhere == everywhere[0]).all())
            if not (error < 5e-3 and alike):
                self.say(f"FAIL sum of {tokens} x {WIDTH} {what}: error {error:.1e}, ranks alike: {alike}")

    def _in_a_graph(self, tokens: int) -> Callable[[Tensor], Tensor]:
        held = torch.zeros(tokens, WIDTH, dtype=self.dtype, device=self.device)
        self.communicator.all_reduce(held.clone())
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            result = self.communicator.all_reduce(held.clone())

        def reduce(x: Tensor) -> Tensor:
            held.copy_(x)
            graph.replay()
            return result.clone()

        return reduce

    def _check_row_of_sums(self, peer: bool) -> None:
        """Sums of several sizes, one behind the other: each must find the buffer free."""
        inputs = [self._noise((1, 64, 5, 300)[index % 4], index + 2) for index in range(60)]
        found = [self.communicator.all_reduce(x.clone()) for x in inputs]
        wrong = 0
        for mine, sum_ in zip(inputs, found, strict=True):
            exact = self._expected(mine)
            wrong += not bool((sum_.float() - exact).norm() / exact.norm() < 5e-3)
        if wrong:
            self.say(f"FAIL {wrong} of {len(inputs)} sums in a row, peer={peer}")

    def time_sums(self) -> None:
        """Microseconds of a sum inside a CUDA graph."""
        for tokens in TOKENS:
            times = []
            for peer in self.communicator.ways:
                self.communicator.peer = peer
                times.append(f"{'peer' if peer else 'NCCL'} {self._sum_us(tokens):7.1f}")
            chosen = reduction_for(torch.empty(tokens, WIDTH, dtype=self.dtype, device="meta")).name
            self.say(f"  sum of {tokens:5d} x {WIDTH} {self.dtype}, us: {', '.join(times)} ({chosen})")

    def _sum_us(self, tokens: int, times: int = 20) -> float:
        held = self._noise(tokens, 0)
        self.communicator.all_reduce(held.clone())
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            for _ in range(times):
                self.communicator.all_reduce(held)
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        graph.replay()
        self.communicator.barrier()
        start.record()
        for _ in range(10):
            graph.replay()
        end.record()
        torch.cuda.synchronize()
        return start.elapsed_time(end) / 10 / times * 1e3

    # A small model.

    def check_model(self) -> None:
        """With ranks as without: logits of a prompt, and greedy tokens through the engine."""
        config = load_model_config(SMALL)
        alone = load_model(SMALL, config, Placement(SingleCommunicator(), self.device, self.dtype), 1)
        divided = load_model(SMALL, config, self.placement, 1)
        random = np.random.default_rng(0)
        prompt = random.integers(0, config.vocab_size, 700).tolist()
        exact = self._logits(config, alone, Placement(SingleCommunicator(), self.device, self.dtype), prompt)
        for peer in self.communicator.ways:
            self.communicator.peer = peer
            found = self._logits(config, divided, self.placement, prompt)
            error = float((found.float() - exact.float()).norm() / exact.float().norm())
            self.say(
                f"  logits, tp={self.communicator.size} against 1, peer={peer}: {verdict(error < 2e-2)} {error:.1e}"
            )
            prompts = [random.integers(0, config.vocab_size, length).tolist() for length in (5, 70, 300)]
            behind = self._greedy_behind(config, alone, divided, prompts)
            self.say(f"  greedy tokens, peer={peer}: {verdict(behind < 0.1)} at most {behind:.3f} behind the likeliest")

    @torch.inference_mode()
    def _logits(self, config: ModelConfig, model: CausalLm, placement: Placement, tokens: list[int]) -> Tensor:
        length = len(tokens)
        pool = kv_pool(config, placement, pages=length, page_size=1)
        counts, slots = np.array([length]), torch.arange(length, device=self.device)
        pages = np.arange(length, dtype=np.int32)[None]
        step = TorchAttention(pool, 1).plan(AttentionMetadata(counts, counts, pages, 1, slots))
        return model.logits(model(torch.tensor(tokens, device=self.device), slots, step))

    def _greedy_behind(
        self, config: ModelConfig, alone: CausalLm, divided: CausalLm, prompts: list[list[int]], count: int = 24
    ) -> float:
        """By how much, in standard deviations of the logits, a token falls short of the likeliest."""
        sizes = SchedulerConfig(256, 16, 4, 1024)
        scheduler = Scheduler(sizes, build_policy(POLICY))
        engine = make_engine(config, divided, self.placement, sizes, scheduler.memory.table)
        sequences = [
            Sequence(index, len(prompt), np.array(prompt, np.int32), count) for index, prompt in enumerate(prompts)
        ]
        for _ in run_offline(scheduler, engine, sequences):
            pass
        engine.close()
        worst = 0.0
        single = Placement(SingleCommunicator(), self.device, self.dtype)
        for prompt, done in zip(prompts, sequences, strict=True):
            tokens = done.tokens[done.prompt_tokens : done.prompt_tokens + done.output_tokens].tolist()
            logits = self._logits(config, alone, single, prompt + tokens[:-1])[len(prompt) - 1 :].float()
            chosen = logits.gather(1, torch.tensor(tokens, device=self.device)[:, None])[:, 0]
            worst = max(worst, float(((logits.amax(1) - chosen) / logits.std(dim=1)).max()))
        return worst

    # A large one.

    def measure(self, name: str, batches: list[int], offline: bool) -> None:
        """Decode steps and the offline workload."""
        bandwidth = copy_bandwidth()
        fields = yaml.safe_load((CONF / f"{name}.yaml").read_text())
        config = load_model_config(fields)
        start_s = time.perf_counter()
        model = load_model(fields, config, self.placement, 1)
        torch.cuda.synchronize()
        self.say(
            f"{name}, tp={self.communicator.size}: {torch.cuda.memory_allocated() / 2**30:.1f} GiB a rank in "
            f"{time.perf_counter() - start_s:.1f} s, device copy {bandwidth / 1e12:.2f} TB/s"
        )
        graphs.ladder = lambda largest: [1, 16, 64, 128, 192, largest]  # the peer's; a capture takes time
        peer_ms, peer_offline = PEER.get((name, self.communicator.size), ({}, None))
        for way in self.communicator.ways:
            self.communicator.peer = way
            bench = Bench(config, model, self.placement, page_size=16)
            self.say(f"  peer={way}: built in {bench.build_s:.1f} s, {bench.pages} pages")
            list(bench.steps([(100, 20)] * 20))
            for batch in batches:
                found = bench.decode(batch)
                floor = floor_ms(config, model, batch, bandwidth, self.communicator.size)
                self.say(
                    f"    decode {batch:4d}: {found['ms']:7.3f} ms, {found['ms'] / floor:.2f}x of the floor "
                    f"{floor:.3f}, peer {peer_ms.get(batch)}; host: launch {found['launch_ms']:.3f}, wait "
                    f"{found['wait_ms']:.3f} ms"
                )
            if offline and way == self.communicator.ways[0]:
                self.say(f"    offline: {bench.offline()}, peer {peer_offline}")
            bench.engine.close()
            del bench
            torch.cuda.empty_cache()


def verdict(holds: bool) -> str:
    """Of a check."""
    return "ok" if holds else "FAIL"


def run_rank(arguments: argparse.Namespace) -> None:
    """Be a rank."""
    rank = Rank(arguments)
    if arguments.part == "check":
        guarded("sums", rank.check_sums)
        guarded("model", rank.check_model)
        if rank.on_gpu:
            guarded("times", rank.time_sums)
    else:
        guarded("speed", rank.measure, arguments.model, arguments.batches, arguments.offline)
    rank.communicator.close()


def start(part: str, tp: int, deadline_s: float, words: list[str]) -> bool:
    """Run all ranks of a part; returns whether all ended well in time."""
    print(f"--- {part}, tp={tp}", flush=True)
    begun_s = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "tests.benchmarks.gpu_tp", *words, "--tp", str(tp), "--part", part]
        command += ["--rendezvous", f"file://{folder}/meet"]
        ranks = [subprocess.Popen([*command, "--rank", str(rank)]) for rank in range(tp)]
        codes = []
        for process in ranks:
            try:
                codes.append(process.wait(max(begun_s + deadline_s - time.monotonic(), 0.1)))
            except subprocess.TimeoutExpired:
                codes.append(None)
                process.kill()
    print(f"--- {part}: exit codes {codes} after {time.monotonic() - begun_s:.0f} s", flush=True)
    return all(code == 0 for code in codes)


def main() -> int:
    """Start the ranks, or be one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tp", type=int, default=2, help="ranks (2)")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: the checks alone, over gloo")
    parser.add_argument("--model", default="qwen3_32b", help="of conf/model (qwen3_32b)")
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 16, 64], help="of decode (1 16 64)")
    parser.add_argument("--no-offline", dest="offline", action="store_false", help="leave the offline workload out")
    parser.add_argument("--deadline", type=float, default=150.0, help="seconds for each part (150)")
    for name, kind in (("--rank", int), ("--part", str), ("--rendezvous", str)):
        parser.add_argument(name, type=kind, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rank is not None:
        run_rank(arguments)
        return 0
    words = [word for word in sys.argv[1:] if word != "--help"]
    fine = start("check", arguments.tp, arguments.deadline, words)
    if arguments.device == "cuda":
        fine &= start("speed", arguments.tp, arguments.deadline, words)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())

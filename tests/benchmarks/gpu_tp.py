"""Tensor parallelism, checked and measured: ``python -m tests.benchmarks.gpu_tp --tp 2 [--help]`` starts the ranks.

Check: sums over ranks, added and normalised, are right, alike on all of them, also in CUDA graphs and one after another
without a pause, each way that there is; how long they take by size; a small model says with ranks what it says without.
Speed: a large model's decode (512-token prompts, mean of 128 steps) and offline workload, with the fused kernels and
with what there was before. ``--device cpu`` runs the checks over gloo.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
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
from runtime.distributed.peer import PeerCommunicator
from runtime.engine.memory import kv_pool
from runtime.engine.offline import run_offline
from runtime.engine.torch_engine import load_model, make_engine
from runtime.layers.parts import Placement
from runtime.models.config import ModelConfig, load_model_config
from runtime.models.decoder import CausalLm
from runtime.scheduler import Scheduler, SchedulerConfig, Sequence
from tests.benchmarks.gpu_engine import CONF, Bench, copy_bandwidth, floor_ms, guarded
from tests.benchmarks.tp_sums import Sums, Switch, peer_ways

WIDTH = 5120
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


class Rank:
    """One rank of a run: where it is, and who speaks."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.arguments = arguments
        rank, tp = arguments.rank, arguments.tp
        self.device = gpu_of(rank, tp) if arguments.device == "cuda" else torch.device("cpu")
        self.on_gpu = self.device.type == "cuda"
        self.dtype = torch.bfloat16 if self.on_gpu else torch.float32
        self.served = connect(rank, tp, arguments.rendezvous, self.device, width=WIDTH, dtype=self.dtype)
        self.group: Communicator = self.served._group if isinstance(self.served, PeerCommunicator) else self.served

    def ways(self, width: int) -> dict[str, Communicator]:
        """How rows of a width are summed."""
        if not self.on_gpu:
            return {"gloo": self.group}
        ways = peer_ways(self.group, self.device, width)
        return ways | {"fused": self.served} if width == WIDTH else ways

    def say(self, line: str) -> None:
        """Rank 0 speaks for all."""
        if self.group.rank == 0:
            print(line, flush=True)

    def sums(self) -> None:
        """Checked, then timed."""
        sums = Sums(self.ways(WIDTH), self.device, self.dtype, WIDTH, self.say)
        sums.check()
        if self.on_gpu:
            sums.time()

    # A small model.

    def check_model(self) -> None:
        """With ranks as without: logits of a prompt, and greedy tokens through the engine."""
        config = load_model_config(SMALL)
        communicator = Switch(self.ways(config.hidden_size))
        placement = Placement(communicator, self.device, self.dtype)
        alone = load_model(SMALL, config, Placement(SingleCommunicator(), self.device, self.dtype), 1)
        divided = load_model(SMALL, config, placement, 1)
        random = np.random.default_rng(0)
        prompt = random.integers(0, config.vocab_size, 700).tolist()
        exact = self._logits(config, alone, Placement(SingleCommunicator(), self.device, self.dtype), prompt)
        for way in [name for name in ("fused", "gloo") if name in communicator.ways]:
            communicator.take(way)
            found = self._logits(config, divided, placement, prompt)
            error = float((found.float() - exact.float()).norm() / exact.float().norm())
            self.say(f"  logits, tp={self.group.size} against 1, {way}: {verdict(error < 2e-2)} {error:.1e}")
            prompts = [random.integers(0, config.vocab_size, length).tolist() for length in (5, 70, 300)]
            behind = self._greedy_behind(config, alone, divided, placement, prompts)
            self.say(f"  greedy tokens, {way}: {verdict(behind < 0.1)} at most {behind:.3f} behind the likeliest")

    @torch.inference_mode()
    def _logits(self, config: ModelConfig, model: CausalLm, placement: Placement, tokens: list[int]) -> Tensor:
        length = len(tokens)
        pool = kv_pool(config, placement, pages=length, page_size=1)
        counts, slots = np.array([length]), torch.arange(length, device=self.device)
        pages = np.arange(length, dtype=np.int32)[None]
        step = TorchAttention(pool, 1).plan(AttentionMetadata(counts, counts, pages, 1, slots))
        return model.logits(model(torch.tensor(tokens, device=self.device), slots, step))

    def _greedy_behind(
        self,
        config: ModelConfig,
        alone: CausalLm,
        divided: CausalLm,
        placement: Placement,
        prompts: list[list[int]],
        count: int = 24,
    ) -> float:
        """By how much, in standard deviations of the logits, a token falls short of the likeliest."""
        sizes = SchedulerConfig(256, 16, 4, 1024)
        scheduler = Scheduler(sizes, build_policy(POLICY))
        engine = make_engine(config, divided, placement, sizes, scheduler.memory.table)
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

    def measure(self, name: str, batches: list[int], ways: list[str]) -> None:
        """Decode steps and the offline workload, each way in turn."""
        bandwidth = copy_bandwidth()
        fields = yaml.safe_load((CONF / f"{name}.yaml").read_text())
        config = load_model_config(fields)
        start_s = time.perf_counter()
        communicator = Switch(self.ways(config.hidden_size))
        placement = Placement(communicator, self.device, self.dtype)
        model = load_model(fields, config, placement, 1)
        torch.cuda.synchronize()
        self.say(
            f"{name}, tp={self.group.size}: {torch.cuda.memory_allocated() / 2**30:.1f} GiB a rank in "
            f"{time.perf_counter() - start_s:.1f} s, device copy {bandwidth / 1e12:.2f} TB/s"
        )
        peer_ms, peer_offline = PEER.get((name, self.group.size), ({}, None))
        for way in ways:
            communicator.take(way)
            bench = Bench(config, model, placement, page_size=16)
            self.say(f"  {way}: built in {bench.build_s:.1f} s, {bench.pages} pages")
            list(bench.steps([(100, 20)] * 20))
            for batch in batches:
                found = bench.decode(batch)
                floor = floor_ms(config, model, batch, bandwidth, self.group.size)
                self.say(
                    f"    decode {batch:4d}: {found['ms']:7.3f} ms, {found['ms'] / floor:.2f}x of the floor "
                    f"{floor:.3f}, peer {peer_ms.get(batch)}; host: launch {found['launch_ms']:.3f}, wait "
                    f"{found['wait_ms']:.3f} ms"
                )
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
        guarded("sums", rank.sums)
        guarded("model", rank.check_model)
    else:
        guarded("speed", rank.measure, arguments.model, arguments.batches, arguments.ways)
    rank.group.close()


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
    fine = all(code == 0 for code in codes)
    said = "" if fine else "FAIL: a rank did not end well, or in time: "
    print(f"--- {part}: {said}exit codes {codes} after {time.monotonic() - begun_s:.0f} s", flush=True)
    return fine


def main() -> int:
    """Start the ranks, or be one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tp", type=int, default=2, help="ranks (2)")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: the checks alone, over gloo")
    parser.add_argument("--model", default="qwen3_32b", help="of conf/model (qwen3_32b)")
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 16, 64], help="of decode (1 16 64)")
    parser.add_argument("--ways", nargs="*", default=["fused", "before"], help="to sum, of the model (fused before)")
    parser.add_argument("--parts", nargs="*", default=["check", "speed"], help="to run (check speed)")
    parser.add_argument("--deadline", type=float, default=150.0, help="seconds for each part (150)")
    for name, kind in (("--rank", int), ("--part", str), ("--rendezvous", str)):
        parser.add_argument(name, type=kind, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rank is not None:
        run_rank(arguments)
        return 0
    words = [word for word in sys.argv[1:] if word != "--help"]
    parts = [part for part in arguments.parts if part == "check" or arguments.device == "cuda"]
    # Where a part does not end well, the next is not begun.
    return 0 if all(start(part, arguments.tp, arguments.deadline, words) for part in parts) else 1


if __name__ == "__main__":
    sys.exit(main())

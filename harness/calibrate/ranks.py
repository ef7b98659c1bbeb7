"""The other tensor-parallel ranks while rank 0 measures: a process each, told by lines of JSON what to run."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from harness.calibrate.bench import Bench
from harness.calibrate.places import Place
from policies import build_policy
from runtime.engine.place import EnginePlace
from runtime.scheduler import SchedulerConfig
from runtime.server.config import EngineSpec

_IN_A_ROW = 10  # all-reduces timed together
_LEAVES_S = 20.0  # a rank, at the most


class Setup(msgspec.Struct, frozen=True):
    """What a rank builds.

    Attributes:
        engine: Which engine.
        scheduler: Sizes.
        policy: Configuration of :func:`policies.build_policy`.
        rank: This one.
        tp: How many there are.
        rendezvous: Where they meet.
    """

    engine: EngineSpec
    scheduler: SchedulerConfig
    policy: dict[str, Any]
    rank: int
    tp: int
    rendezvous: str

    def build(self) -> Bench:
        """Its engine."""
        policy = build_policy(self.policy)
        place = EnginePlace(self.scheduler, policy.batching.step_tokens, self.rank, self.tp, self.rendezvous)
        return Bench(self.engine, policy, place)


class Steps(msgspec.Struct, frozen=True, tag=True):
    """Run a step, see :meth:`harness.calibrate.bench.Bench.run`."""

    place: Place
    before: Place
    repeats: int


class InARow(msgspec.Struct, frozen=True, tag=True):
    """Run steps one behind the other."""

    places: list[Place]


class AllReduce(msgspec.Struct, frozen=True, tag=True):
    """Reduce so many bytes over all ranks."""

    bytes: int
    repeats: int


class RankDiedError(RuntimeError):
    """Another rank died; it has said of what on standard error."""


class Others:
    """The other ranks, as rank 0 holds them.

    Args:
        setup: Of rank 0.
    """

    def __init__(self, setup: Setup) -> None:
        path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-P", "-m", "harness.calibrate.ranks"],
                stdin=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": path},
            )
            for _ in range(1, setup.tp)
        ]
        for rank in range(1, setup.tp):
            self._tell(rank, msgspec.structs.replace(setup, rank=rank))

    def tell(self, command: Steps | InARow | AllReduce) -> None:
        """Have all of them do what rank 0 is about to do."""
        for rank in range(1, len(self._processes) + 1):
            self._tell(rank, command)

    def close(self) -> None:
        """End them, and this rank's part in the group."""
        alive = all(process.poll() is None for process in self._processes)
        for process in self._processes:
            with suppress(BrokenPipeError):
                if process.stdin is not None:
                    process.stdin.close()
        if alive:
            leave()
        for process in self._processes:
            try:
                process.wait(timeout=_LEAVES_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _tell(self, rank: int, message: Setup | Steps | InARow | AllReduce) -> None:
        process = self._processes[rank - 1]
        try:
            stdin = process.stdin
            if stdin is None:
                raise AssertionError("the process was started with pipes")
            stdin.write(msgspec.json.encode(message) + b"\n")
            stdin.flush()
        except BrokenPipeError:
            raise RankDiedError(f"rank {rank} died with exit code {process.wait()}; what it said is above") from None


def all_reduce_seconds(size: int, repeats: int) -> list[float]:
    """Seconds of an all-reduce of so many bytes, over the engine's own group of ranks: means of a few in a row each."""
    import torch
    import torch.distributed as dist

    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
    tensor = torch.zeros(max(size // 4, 1), dtype=torch.float32, device=device)
    seconds = []
    for _ in range(repeats + 1):  # the first sets up
        dist.barrier()
        begun_s = time.perf_counter()
        for _ in range(_IN_A_ROW):
            dist.all_reduce(tensor)
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append((time.perf_counter() - begun_s) / _IN_A_ROW)
    return seconds[1:]


def leave() -> None:
    """Leave the group together with the others: NCCL's end waits for all of them, at a process's exit too."""
    import torch.distributed as dist

    if dist.is_initialized():
        dist.destroy_process_group()


def main() -> None:
    """Be one of the other ranks, until standard input ends."""
    lines = iter(sys.stdin.buffer.readline, b"")
    bench = msgspec.json.decode(next(lines), type=Setup).build()
    for line in lines:
        command = msgspec.json.decode(line, type=Steps | InARow | AllReduce)
        if isinstance(command, Steps):
            bench.run(command.place, command.before, command.repeats)
        elif isinstance(command, InARow):
            bench.in_a_row(command.places)
        else:
            all_reduce_seconds(command.bytes, command.repeats)
    watchdog = threading.Timer(_LEAVES_S, os._exit, [1])  # rank 0 may be gone
    watchdog.daemon = True
    watchdog.start()
    leave()


if __name__ == "__main__":
    main()

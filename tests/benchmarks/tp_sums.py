"""Sums over ranks with add and norm, each way there is: checked, and timed by size."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor

from runtime.distributed import Communicator
from runtime.distributed.communicator import DelegatingCommunicator
from runtime.distributed.peer import LIMITS, Limits, PeerCommunicator
from runtime.kernels import Kernels, kernels_for

EPS = 1e-6
MOST = 2048  # tokens that a kernel of ours sums here
TOKENS = (1, 3, 16, 64, 128, 256, 512, 2048, 8192)
IN_A_ROW = (1, 64, 5, 300, 17, 2048, 2, 65, 1000, 9)
_BEFORE_BYTES = 256 << 10, 32 << 20  # one-shot, two-shot


class Before(DelegatingCommunicator):
    """What there was before our kernels: PyTorch's sums over symmetric memory, then add and norm."""

    def __init__(self, group: Communicator, device: torch.device) -> None:
        import torch.distributed._symmetric_memory as symmetric_memory

        super().__init__(group)
        world = dist.group.WORLD
        assert world is not None
        self._name = world.group_name
        self._memory = symmetric_memory.empty(_BEFORE_BYTES[-1], dtype=torch.uint8, device=device)
        symmetric_memory.rendezvous(self._memory, world)

    def all_reduce(self, tensor: Tensor) -> Tensor:
        size = tensor.numel() * tensor.element_size()
        if size > _BEFORE_BYTES[-1]:
            return self._group.all_reduce(tensor)
        shared = self._memory[:size].view(tensor.dtype).view(tensor.shape)
        if size <= _BEFORE_BYTES[0]:
            total: Tensor = torch.ops.symm_mem.one_shot_all_reduce_copy(shared, tensor, "sum", self._name)
            return total
        torch.ops.symm_mem.two_shot_all_reduce_out(shared.copy_(tensor), "sum", self._name, tensor)
        return tensor


class Switch(DelegatingCommunicator):
    """Sums in one of several ways; graphs keep the way of their capture.

    Attributes:
        ways: By name; the first is taken at first.
    """

    def __init__(self, ways: dict[str, Communicator]) -> None:
        super().__init__(next(iter(ways.values())))
        self.ways = ways

    def take(self, way: str) -> None:
        """Sum this way from now on."""
        self._group = self.ways[way]

    def add_rms_norm(
        self, part: Tensor, residual: Tensor | None, weight: Tensor, eps: float, kernels: Kernels
    ) -> tuple[Tensor, Tensor]:
        return self._group.add_rms_norm(part, residual, weight, eps, kernels)


def peer_ways(group: Communicator, device: torch.device, width: int) -> dict[str, Communicator]:
    """Sums of rows of a width on GPUs: as chosen by size, the kernels of ours each alone, as before, by NCCL."""
    from runtime.distributed.symmetric import SymmetricMemory

    memory = SymmetricMemory(group, device, width, Limits(MOST, MOST))
    return {
        "fused": PeerCommunicator(group, memory, LIMITS[group.size]),
        "one-shot": PeerCommunicator(group, memory, Limits(MOST, 0)),
        "two-shot": PeerCommunicator(group, memory, Limits(0, MOST)),
        "before": Before(group, device),
        "NCCL": group,
    }


class Sums:
    """Checks and measures.

    Args:
        ways: All of the same ranks.
        say: Of rank 0.
    """

    def __init__(
        self,
        ways: dict[str, Communicator],
        device: torch.device,
        dtype: torch.dtype,
        width: int,
        say: Callable[[str], None],
    ) -> None:
        self._ways = ways
        self._group = next(iter(ways.values()))
        self._device, self._dtype, self._width, self._say = device, dtype, width, say
        self._kernels = kernels_for(device.type, dtype)
        generator = torch.Generator(device).manual_seed(7)
        self._weight = (torch.randn(width, generator=generator, device=device) + 2).to(dtype)

    def check(self) -> None:
        """Right, and the same everywhere: eager, in graphs, and a long row of both without a pause."""
        wrong = 0
        for name, way in self._ways.items():
            for tokens in TOKENS:
                part = self._noise(tokens, 0)
                wrong += self._judge(f"{name} eager", part, self._twice(way, part.clone()))
                if self._device.type == "cuda":
                    in_a_graph = self._in_a_graph(way, tokens)
                    for seed in range(1, 3):
                        part = self._noise(tokens, seed)
                        wrong += self._judge(f"{name} graph", part, in_a_graph(part))
            wrong += self._row(name, way)
            self._say(f"  sums, {name}: {'ok' if not wrong else f'FAIL, {wrong} so far'}")

    def _noise(self, tokens: int, seed: int) -> Tensor:
        generator = torch.Generator(self._device).manual_seed(1000 * seed + self._group.rank)
        return torch.randn(tokens, self._width, generator=generator, device=self._device).to(self._dtype)

    def _twice(self, way: Communicator, part: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Two sums of a step: a part begins the stream, what it becomes is added; both normalised, and the stream."""
        first, stream = way.add_rms_norm(part, None, self._weight, EPS, self._kernels)
        second, stream = way.add_rms_norm(first.clone(), stream, self._weight, EPS, self._kernels)
        return first, second, stream

    def _in_a_graph(self, way: Communicator, tokens: int) -> Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]:
        held = torch.zeros(tokens, self._width, dtype=self._dtype, device=self._device)
        self._twice(way, held.clone())
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            results = self._twice(way, held.clone())

        def run(part: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            held.copy_(part)
            graph.replay()
            first, second, stream = (result.clone() for result in results)
            return first, second, stream

        return run

    def _norm(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS) * self._weight.float()

    def _judge(self, what: str, part: Tensor, found: tuple[Tensor, Tensor, Tensor]) -> int:
        """1 where the two sums are wrong or ranks differ."""
        group = self._group
        exact = group.all_gather(part.flatten()).view(group.size, *part.shape).float().sum(0)
        first, second, stream = found
        after = exact + group.size * first.float()
        mine = slice(group.rank, None, group.size)  # a rank may know these rows of the stream alone
        pairs = (first, self._norm(exact)), (second, self._norm(after)), (stream[mine], after[mine])
        errors = [float((ours.float() - right).norm() / right.norm().clamp(min=1e-9)) for ours, right in pairs]
        seen = torch.stack([first, second]).flatten().float()
        everywhere = group.all_gather(seen).view(group.size, -1)
        alike = bool((everywhere == everywhere[0]).all())
        fine = alike and max(errors) < 1e-2
        # Every rank judges its own rows: one that is wrong says so itself.
        if not fine:
            print(
                f"FAIL rank {group.rank}: {what}, {len(part)} rows: errors {errors}, ranks alike: {alike}", flush=True
            )
        return int(not fine)

    def _row(self, name: str, way: Communicator) -> int:
        """Sums of several sizes, some of them in graphs, one behind the other; judged when all have been launched."""
        graphs = {}
        if self._device.type == "cuda":
            graphs = {tokens: self._in_a_graph(way, tokens) for tokens in (1, 64, 300)}
        parts = [self._noise(IN_A_ROW[index % len(IN_A_ROW)], index + 2) for index in range(60)]
        found = []
        for index, part in enumerate(parts):
            run = graphs.get(len(part)) if index % 3 else None
            found.append(run(part) if run else self._twice(way, part.clone()))
        return sum(self._judge(f"{name} in a row", *pair) for pair in zip(parts, found, strict=True))

    def time(self) -> None:
        """Microseconds of a sum with add and norm, in a row of them inside a CUDA graph."""
        for tokens in TOKENS:
            times = [f"{name} {us:.1f}" for name, us in self._times_us(tokens)]
            self._say(f"  sum, add and norm of {tokens:5d} x {self._width}, us: {', '.join(times)}")

    def _times_us(self, tokens: int, times: int = 20) -> Iterator[tuple[str, float]]:
        for name, way in self._ways.items():
            if name == "fused" or (name in ("one-shot", "two-shot") and tokens > MOST):
                continue  # one of the others
            part, stream = self._noise(tokens, 0), self._noise(tokens, 1)
            way.add_rms_norm(part, stream, self._weight, EPS, self._kernels)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                for _ in range(times):
                    part, stream = way.add_rms_norm(part, stream, self._weight, EPS, self._kernels)
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            graph.replay()
            self._group.barrier()
            start.record()
            for _ in range(10):
                graph.replay()
            end.record()
            torch.cuda.synchronize()
            yield name, start.elapsed_time(end) / 10 / times * 1e3

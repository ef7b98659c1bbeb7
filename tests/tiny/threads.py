"""Ranks as threads of one process: tensor parallelism of any size, without processes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from runtime.distributed import Communicator

T = TypeVar("T")


class _Meeting:
    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size, timeout=60)
        self.tensors: list[Tensor] = [torch.empty(0)] * size


class ThreadCommunicator(Communicator):
    """One rank's end of a group of threads."""

    def __init__(self, rank: int, size: int, meeting: _Meeting) -> None:
        self.rank, self.size = rank, size
        self._meeting = meeting

    def _exchange(self, tensor: Tensor) -> list[Tensor]:
        self._meeting.tensors[self.rank] = tensor.clone()
        self._meeting.barrier.wait()
        tensors = list(self._meeting.tensors)
        self._meeting.barrier.wait()
        return tensors

    def all_reduce(self, tensor: Tensor) -> Tensor:
        return torch.stack(self._exchange(tensor)).sum(0)

    def all_gather(self, tensor: Tensor) -> Tensor:
        return torch.cat(self._exchange(tensor), dim=-1)

    def broadcast(self, tensor: Tensor, source: int = 0) -> Tensor:
        return self._exchange(tensor)[source]

    def barrier(self) -> None:
        self._meeting.barrier.wait()

    def close(self) -> None:
        pass


def on_ranks(size: int, work: Callable[[Communicator], T]) -> list[T]:
    """What each rank's ``work`` returns, run at the same time."""
    meeting = _Meeting(size)
    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(work, ThreadCommunicator(rank, size, meeting)) for rank in range(size)]
        return [future.result() for future in futures]

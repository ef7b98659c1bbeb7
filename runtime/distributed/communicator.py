"""Collectives between the ranks of a tensor-parallel group, handed to whoever needs them."""

from __future__ import annotations

import datetime
from abc import ABC, abstractmethod

import torch
import torch.distributed as dist
from torch import Tensor

from runtime.kernels import Kernels


class Communicator(ABC):
    """One rank's end of a group. Every rank makes the same calls in the same order, from one thread.

    Attributes:
        rank: This one, from 0.
        size: How many there are.
    """

    rank: int
    size: int

    @abstractmethod
    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The sum over ranks, in place where it can be; the result is what is returned."""

    def add_rms_norm(
        self, part: Tensor, residual: Tensor | None, weight: Tensor, eps: float, kernels: Kernels
    ) -> tuple[Tensor, Tensor]:
        """Sum ``part`` over ranks, add it to the residual stream, normalise: the stream normalised, and the stream.

        Args:
            part: (tokens, width): this rank's; it may be overwritten.
            residual: The same: the stream so far, which may be overwritten too; None where the sum begins it. It is
                for the next call with as many tokens alone: a rank need not know all of it.
            weight: (width,) of the norm.
            eps: Added to the mean square.
            kernels: Add and normalise, where that is not done on the way.
        """
        total = self.all_reduce(part)
        if residual is None:
            return kernels.rms_norm(total, weight, eps), total
        return kernels.add_rms_norm(total, residual, weight, eps)

    @abstractmethod
    def all_gather(self, tensor: Tensor) -> Tensor:
        """All ranks' tensors, of one shape, joined along the last dimension in the order of ranks."""

    @abstractmethod
    def broadcast(self, tensor: Tensor, source: int = 0) -> Tensor:
        """Rank ``source``'s tensor, in place."""

    @abstractmethod
    def barrier(self) -> None:
        """Wait until all ranks are here."""

    @abstractmethod
    def close(self) -> None:
        """Leave the group."""


class DelegatingCommunicator(Communicator):
    """A group that leaves to another of the same ranks what a subclass does not do itself.

    Args:
        group: The other.
    """

    def __init__(self, group: Communicator) -> None:
        self.rank, self.size = group.rank, group.size
        self._group = group

    def all_reduce(self, tensor: Tensor) -> Tensor:
        return self._group.all_reduce(tensor)

    def all_gather(self, tensor: Tensor) -> Tensor:
        return self._group.all_gather(tensor)

    def broadcast(self, tensor: Tensor, source: int = 0) -> Tensor:
        return self._group.broadcast(tensor, source)

    def barrier(self) -> None:
        self._group.barrier()

    def close(self) -> None:
        self._group.close()


class SingleCommunicator(Communicator):
    """A group of one."""

    rank = 0
    size = 1

    def all_reduce(self, tensor: Tensor) -> Tensor:
        return tensor

    def all_gather(self, tensor: Tensor) -> Tensor:
        return tensor

    def broadcast(self, tensor: Tensor, source: int = 0) -> Tensor:
        del source
        return tensor

    def barrier(self) -> None:
        """Nobody to wait for."""

    def close(self) -> None:
        """Nothing to leave."""


class TorchCommunicator(Communicator):
    """A group over ``torch.distributed``, one process a rank: gloo for CPU, NCCL for GPUs.

    Args:
        rank: This one.
        size: How many ranks.
        backend: ``gloo`` or ``nccl``.
        device: This rank's GPU, for NCCL to connect at once.
        init_method: Where ranks meet: ``file:///path`` of a file that is not there yet, or ``tcp://127.0.0.1:port``.
        timeout_s: A collective that takes longer fails: a rank is gone.
    """

    def __init__(
        self,
        rank: int,
        size: int,
        *,
        backend: str,
        init_method: str,
        device: torch.device | None = None,
        timeout_s: float = 600.0,
    ) -> None:
        self.rank = rank
        self.size = size
        dist.init_process_group(
            backend,
            init_method=init_method,
            rank=rank,
            world_size=size,
            device_id=device,
            timeout=datetime.timedelta(seconds=timeout_s),
        )

    def all_reduce(self, tensor: Tensor) -> Tensor:
        dist.all_reduce(tensor)
        return tensor

    def all_gather(self, tensor: Tensor) -> Tensor:
        parts = tensor.new_empty(self.size, *tensor.shape)
        dist.all_gather(list(parts.unbind()), tensor.contiguous())
        return parts.movedim(0, -2).flatten(-2)

    def broadcast(self, tensor: Tensor, source: int = 0) -> Tensor:
        dist.broadcast(tensor, src=source)
        return tensor

    def barrier(self) -> None:
        dist.barrier()

    def close(self) -> None:
        dist.destroy_process_group()

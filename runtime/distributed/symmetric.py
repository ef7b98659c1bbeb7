"""All-reduce over NVLink by PyTorch's symmetric memory where messages are small, by NCCL where they are large.

A decode step reduces twice a layer, some kilobytes each time: latency is all that counts, and kernels that read their
peers' memory have half of NCCL's. They run inside CUDA graphs. No multicast.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from runtime.distributed.communicator import Communicator

_MOST_BYTES = 32 << 20
_DTYPES = (torch.bfloat16, torch.float32)  # that the kernels know
_ALIGNMENT = 16  # bytes


class Reduction(Enum):
    """How a message is summed.

    Attributes:
        ONE_SHOT: Each rank reads all others' whole messages.
        TWO_SHOT: Each rank sums a share, then reads the others' sums.
        NCCL: As NCCL does.
    """

    ONE_SHOT = auto()
    TWO_SHOT = auto()
    NCCL = auto()


# Up to so many bytes. Measured on 2 and 4 H200 over NVLink, in CUDA graphs, microseconds for messages of bfloat16:
#   bytes        10 kB   160 kB   650 kB   2.6 MB   21 MB   84 MB
#   2: one-shot    6.1      7.5     10.6     21.4       -       -
#      two-shot    6.1      7.3      8.0     15.1      70     263
#      NCCL       14.1     13.0     16.3     32.6      98     312
#   4: one-shot    7.4      9.1     14.3     33.8       -       -
#      two-shot    6.5      9.1     10.3     20.2     112     417
#      NCCL       16.3     16.4     19.6     34.3     118     403
# One-shot also copies its input into symmetric memory, two-shot needs another kernel for that.
_LIMITS = ((256 << 10, Reduction.ONE_SHOT), (_MOST_BYTES, Reduction.TWO_SHOT))


def reduction_for(tensor: Tensor) -> Reduction:
    """The fastest way to sum such a message; ranks that hold tensors of one shape and type choose alike."""
    size = tensor.numel() * tensor.element_size()
    if tensor.dtype in _DTYPES and tensor.is_contiguous() and size % _ALIGNMENT == 0:
        for limit, reduction in _LIMITS:
            if size <= limit:
                return reduction
    return Reduction.NCCL


class PeerMemory(Protocol):
    """Memory that all ranks read."""

    def one_shot(self, tensor: Tensor) -> Tensor:
        """The sum over ranks, a new tensor."""

    def two_shot(self, tensor: Tensor) -> Tensor:
        """The sum over ranks, in place."""


class SymmetricMemory:
    """A buffer at the same place on every GPU of the default group.

    Its steps leave it free when they end: every kernel begins and ends with a barrier among its ranks' blocks.

    Args:
        device: This rank's.
    """

    def __init__(self, device: torch.device) -> None:
        import torch.distributed._symmetric_memory as symmetric_memory

        group = dist.group.WORLD
        if group is None:
            raise RuntimeError("symmetric memory needs a process group")
        self._group = group.group_name
        self._buffer = symmetric_memory.empty(_MOST_BYTES, dtype=torch.uint8, device=device)
        symmetric_memory.rendezvous(self._buffer, group)

    def one_shot(self, tensor: Tensor) -> Tensor:
        """The sum over ranks, a new tensor."""
        total: Tensor = torch.ops.symm_mem.one_shot_all_reduce_copy(self._like(tensor), tensor, "sum", self._group)
        return total

    def two_shot(self, tensor: Tensor) -> Tensor:
        """The sum over ranks, in place."""
        shared = self._like(tensor).copy_(tensor)
        torch.ops.symm_mem.two_shot_all_reduce_out(shared, "sum", self._group, tensor)
        return tensor

    def _like(self, tensor: Tensor) -> Tensor:
        """The beginning of the buffer, as a tensor of that shape and type."""
        size = tensor.numel() * tensor.element_size()
        return self._buffer[:size].view(tensor.dtype).view(tensor.shape)


class PeerCommunicator(Communicator):
    """A group whose small sums go through peer memory, and all else another way.

    Args:
        group: Does all else.
        memory: Of the same ranks.
    """

    def __init__(self, group: Communicator, memory: PeerMemory) -> None:
        self.rank, self.size = group.rank, group.size
        self._group = group
        self._memory = memory

    def all_reduce(self, tensor: Tensor) -> Tensor:
        reduction = reduction_for(tensor)
        if reduction is Reduction.ONE_SHOT:
            return self._memory.one_shot(tensor)
        if reduction is Reduction.TWO_SHOT:
            return self._memory.two_shot(tensor)
        return self._group.all_reduce(tensor)

    def all_gather(self, tensor: Tensor) -> Tensor:
        return self._group.all_gather(tensor)

    def broadcast(self, tensor: Tensor, source: int = 0) -> Tensor:
        return self._group.broadcast(tensor, source)

    def barrier(self) -> None:
        self._group.barrier()

    def close(self) -> None:
        self._group.close()

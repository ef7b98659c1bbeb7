"""Memory on every GPU that all ranks write over NVLink: PyTorch's symmetric memory, under kernels of ours.

They run inside CUDA graphs. No multicast.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.distributed._symmetric_memory as symmetric_memory
from torch import Tensor

from runtime.distributed.communicator import Communicator
from runtime.distributed.peer import Limits
from runtime.kernels.launch import OVERLAP_TOKENS
from runtime.kernels.reduce_norm import (
    EMPTY,
    Inbox,
    one_shot,
    one_shot_numbers,
    two_shot,
    two_shot_groups,
    two_shot_numbers,
)


class SymmetricMemory:
    """Inboxes for rows of one width, of half precision, on every GPU of the default group.

    All ranks make one together, and then the same calls in the same order.

    Args:
        group: The ranks: 2, 4 or 8.
        device: This rank's.
        width: Numbers of a row, a multiple of 8.
        limits: The most tokens of each way.
    """

    def __init__(self, group: Communicator, device: torch.device, width: int, limits: Limits) -> None:
        world = dist.group.WORLD
        if world is None:
            raise RuntimeError("symmetric memory needs a process group")
        ranks = group.size
        first = one_shot_numbers(limits.one_shot, ranks, width)
        count = first + two_shot_numbers(limits.two_shot, ranks, width)
        self._memory = symmetric_memory.empty(count, dtype=torch.int16, device=device)
        self._handle = symmetric_memory.rendezvous(self._memory, world)  # holds the others' memory
        memories = [self._handle.get_buffer(rank, (count,), torch.int16).data_ptr() for rank in range(ranks)]
        self._memory.fill_(EMPTY)
        torch.cuda.synchronize(device)
        group.barrier()  # no rank writes before all are empty

        def inbox(start: int, pieces: int) -> Inbox:
            addresses = [memory + start * self._memory.element_size() for memory in memories]
            turns = torch.zeros(pieces, dtype=torch.int32, device=device)
            return Inbox(group.rank, torch.tensor(addresses, device=device), turns)

        self._one_shot = inbox(0, limits.one_shot)
        self._two_shot = inbox(first, two_shot_groups(limits.two_shot, ranks))
        self._overlap = torch.cuda.get_device_capability(device) >= (9, 0)

    def one_shot(self, part: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """Each rank sums all rows."""
        early = self._overlaps(part)
        return one_shot(part, residual, weight, eps, self._one_shot, overlap_launch=early)

    def two_shot(self, part: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """Each rank sums a share of the rows, and knows the stream of these alone."""
        early = self._overlaps(part)
        return two_shot(part, residual, weight, eps, self._two_shot, overlap_launch=early)

    def _overlaps(self, part: Tensor) -> bool:
        return self._overlap and len(part) <= OVERLAP_TOKENS

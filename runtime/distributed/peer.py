"""Sums through memory that all ranks write, where there are few rows; another way where there are many.

A decode step sums twice a layer, some kilobytes each time: latency is all that counts.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from runtime.distributed.communicator import Communicator, DelegatingCommunicator
from runtime.kernels import Kernels

_VECTOR = 8  # numbers of half precision that are written at a time


class Limits(NamedTuple):
    """Up to how many tokens a way of summing is the fastest.

    Attributes:
        one_shot: Each rank sums all rows.
        two_shot: Each rank sums a share of the rows, where that is more than by one shot; for more tokens NCCL does.
    """

    one_shot: int
    two_shot: int


# On 2 H200 over NVLink, in CUDA graphs, microseconds to sum rows of 5,120, add and normalise them (before: PyTorch's
# all-reduces over symmetric memory, and a norm):
#   tokens        1    16    64   256   512  2048
#   one-shot    3.8   4.1   5.5  11.3  20.9  92.6
#   two-shot    5.5   6.6   7.4  12.6  18.5  76.9
#   before      9.3  10.1  15.0  24.1  35.4   106
#   NCCL        9.2   9.4  13.2  31.1  41.0   111
LIMITS = {2: Limits(256, 2048), 4: Limits(64, 2048), 8: Limits(32, 2048)}
"""By the number of ranks. Those of four and of eight are not measured."""


def limits_for(ranks: int, width: int, dtype: torch.dtype) -> Limits | None:
    """How sums of (tokens, width) are done through peer memory; None where they are not."""
    half = dtype in (torch.bfloat16, torch.float16)
    return LIMITS.get(ranks) if half and width % _VECTOR == 0 else None


class PeerMemory(Protocol):
    """Memory that all ranks write: each method sums over ranks, adds and normalises, as ``Communicator`` says."""

    def one_shot(self, part: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """Each rank sums all rows."""

    def two_shot(self, part: Tensor, residual: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """Each rank sums a share of the rows, and knows the stream of these alone."""


class PeerCommunicator(DelegatingCommunicator):
    """A group whose sums of few rows go through peer memory, and all else another way.

    Args:
        group: Does all else.
        memory: Of the same ranks.
        limits: How many rows are few.
    """

    def __init__(self, group: Communicator, memory: PeerMemory, limits: Limits) -> None:
        super().__init__(group)
        self._memory = memory
        self._limits = limits

    def add_rms_norm(
        self, part: Tensor, residual: Tensor | None, weight: Tensor, eps: float, kernels: Kernels
    ) -> tuple[Tensor, Tensor]:
        if len(part) <= self._limits.one_shot:
            return self._memory.one_shot(part, residual, weight, eps)
        if len(part) <= self._limits.two_shot:
            return self._memory.two_shot(part, residual, weight, eps)
        return self._group.add_rms_norm(part, residual, weight, eps, kernels)

"""Which part of a checkpoint a rank holds: layers declare it, loaders fill it in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from runtime.distributed import Communicator
from runtime.kernels import Kernels, kernels_for
from runtime.models.errors import ParallelError


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a model lives.

    Attributes:
        communicator: The ranks that it is divided over.
        device: This rank's.
        dtype: Of weights and activations.
    """

    communicator: Communicator
    device: torch.device
    dtype: torch.dtype

    @property
    def kernels(self) -> Kernels:
        """The kernels that its layers use."""
        return kernels_for(self.device.type, self.dtype)

    def share(self, what: str, total: int) -> int:
        """This rank's share of something that is divided evenly.

        Raises:
            ParallelError: It does not divide.
        """
        size = self.communicator.size
        if total % size:
            raise ParallelError(f"tp={size}: it does not divide the model's {what}={total}; take one that does")
        return total // size

    def weight(self, *shape: int) -> nn.Parameter:
        """Memory for a weight, zeros until a loader fills it."""
        return nn.Parameter(torch.zeros(shape, dtype=self.dtype, device=self.device), requires_grad=False)


@dataclass(frozen=True, slots=True)
class Part:
    """What this rank takes of one tensor of a checkpoint.

    Attributes:
        name: The tensor's.
        shape: The whole tensor's.
        index: A slice for each dimension: the part.
        target: Where it goes: memory of the part's shape.
    """

    name: str
    shape: tuple[int, ...]
    index: tuple[slice, ...]
    target: Tensor


class Layer(nn.Module, ABC):
    """A module with weights of its own."""

    @abstractmethod
    def parts(self, name: str) -> Iterator[Part]:
        """The parts it is filled from.

        Args:
            name: The module's name in the model, which is that in the checkpoint but for fused layers.
        """


def sibling(name: str, other: str) -> str:
    """The name ``other`` in the module that holds ``name``."""
    return f"{name.rpartition('.')[0]}.{other}"


def whole(shape: tuple[int, ...]) -> tuple[slice, ...]:
    """The index of a whole tensor."""
    return tuple(slice(0, length) for length in shape)

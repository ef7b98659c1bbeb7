"""Which part of a checkpoint a rank holds: layers declare it, loaders fill it in."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from runtime.distributed import Communicator
from runtime.kernels import Kernels, kernels_for
from runtime.kernels.fp8 import FP8, quantize
from runtime.models.errors import ParallelError


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a model lives.

    Attributes:
        communicator: The ranks that it is divided over.
        device: This rank's.
        dtype: Of activations, and of what is not in fp8.
        fp8_weights: Whether the matrices of attention, MLPs and experts are held in fp8 (e4m3), each output with a
            scale; activations are rounded token by token.
        fp8_kv: Whether KV is held in fp8, as it is.
    """

    communicator: Communicator
    device: torch.device
    dtype: torch.dtype
    fp8_weights: bool = False
    fp8_kv: bool = False

    @property
    def kv_dtype(self) -> torch.dtype:
        """Of keys and values in memory."""
        return FP8 if self.fp8_kv else self.dtype

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
        return self._zeros(shape, self.dtype)

    def matrix(self, *shape: int) -> tuple[nn.Parameter, nn.Parameter | None]:
        """Memory for a matrix (..., outputs, inputs), and for its scales (..., outputs) where it is held in fp8."""
        if not self.fp8_weights:
            return self.weight(*shape), None
        return self._zeros(shape, FP8), self._zeros(shape[:-1], torch.float32)

    def _zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> nn.Parameter:
        return nn.Parameter(torch.zeros(shape, dtype=dtype, device=self.device), requires_grad=False)


@dataclass(frozen=True, slots=True)
class Part:
    """What this rank takes of one tensor of a checkpoint.

    Attributes:
        name: The tensor's.
        shape: The whole tensor's.
        index: A slice for each dimension: the part.
        target: Where it goes: memory of the part's shape.
        scales: Where it goes in fp8, its rows' scales; None where it goes as it is.
    """

    name: str
    shape: tuple[int, ...]
    index: tuple[slice, ...]
    target: Tensor
    scales: Tensor | None = None

    def fill(self, values: Tensor) -> None:
        """Take the part, rounded to what its memory holds."""
        if self.scales is None:
            self.target.copy_(values)
        else:
            rounded, scales = quantize(values.to(self.target.device))
            self.target.copy_(rounded)
            self.scales.copy_(scales)


class Module(nn.Module):
    """PyTorch's module, but a call is its ``forward`` and no more, and its parts are found as plain attributes.

    A step launched kernel by kernel is bound by the host, which spends half of what layers take on hooks that nobody
    registers and on looking up submodules and weights. These stay the objects that they were made as: a model is made
    where it is to run (``Placement``) and filled there, never moved or converted.
    """

    def __call__(self, *arguments: Any) -> Any:
        return self.forward(*arguments)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if isinstance(value, (nn.Module, nn.Parameter)):
            self.__dict__[name] = value


class Layer(Module, ABC):
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

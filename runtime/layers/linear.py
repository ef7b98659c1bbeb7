"""Linear layers, whole or divided over ranks by their outputs (columns) or by their inputs (rows)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch.nn.functional as F  # noqa: N812 (its name everywhere)
from torch import Tensor

from runtime.kernels import Weight
from runtime.layers.parts import Layer, Part, Placement, sibling, whole


@dataclass(frozen=True, slots=True)
class Output:
    """One of the checkpoint's linear layers that a column-parallel layer fuses.

    Attributes:
        name: The layer's, beside the fused one.
        total: Its outputs.
        start: The first that this rank computes.
        count: How many it computes.
    """

    name: str
    total: int
    start: int
    count: int


def split_output(placement: Placement, name: str, total: int) -> Output:
    """An output divided evenly over the ranks."""
    count = placement.share(f"{name} outputs", total)
    return Output(name, total, placement.communicator.rank * count, count)


class ColumnLinear(Layer):
    """Each rank computes some of the outputs; layers that share their input are fused into one product.

    Args:
        inputs: Width of the input, whole on every rank.
        outputs: What this rank computes, in the order of the result.
        bias: Whether the checkpoint's layers have biases.
    """

    def __init__(self, placement: Placement, inputs: int, outputs: list[Output], *, bias: bool) -> None:
        super().__init__()
        self.outputs = outputs
        self._kernels = placement.kernels
        width = sum(output.count for output in outputs)
        self.weight, self.scales = placement.matrix(width, inputs)
        self.bias = placement.weight(width) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., this rank's outputs)."""
        return self._kernels.linear(x, Weight(self.weight, self.scales), self.bias)

    def parts(self, name: str) -> Iterator[Part]:
        """Weight rows, and biases, of each fused layer."""
        offset, inputs = 0, self.weight.shape[1]
        for output in self.outputs:
            mine = slice(offset, offset + output.count)
            rows = slice(output.start, output.start + output.count)
            source = sibling(name, output.name)
            index, scales = (rows, slice(0, inputs)), None if self.scales is None else self.scales[mine]
            yield Part(f"{source}.weight", (output.total, inputs), index, self.weight[mine], scales)
            if self.bias is not None:
                yield Part(f"{source}.bias", (output.total,), (rows,), self.bias[mine])
            offset += output.count


class RowLinear(Layer):
    """Each rank holds some of the inputs, and computes its part of a sum over ranks: a norm sums, see ``RmsNorm.add``.

    Args:
        inputs: Width of the whole input.
        outputs: Width of the result.
        bias: Whether the checkpoint's layer has biases.
    """

    def __init__(self, placement: Placement, inputs: int, outputs: int, *, bias: bool) -> None:
        super().__init__()
        self._communicator = placement.communicator
        self._inputs = inputs
        self._kernels = placement.kernels
        self.weight, self.scales = placement.matrix(outputs, placement.share("row-parallel inputs", inputs))
        self.bias = placement.weight(outputs) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """(..., this rank's inputs) to (..., outputs), this rank's part of the sum; rank 0's has the bias."""
        bias = self.bias if self._communicator.rank == 0 else None
        return self._kernels.linear(x, Weight(self.weight, self.scales), bias)

    def parts(self, name: str) -> Iterator[Part]:
        """Weight columns; the bias whole."""
        outputs, count = self.weight.shape
        start = self._communicator.rank * count
        index = (slice(0, outputs), slice(start, start + count))
        yield Part(f"{name}.weight", (outputs, self._inputs), index, self.weight, self.scales)
        if self.bias is not None:
            yield Part(f"{name}.bias", (outputs,), (slice(0, outputs),), self.bias)


class ReplicatedLinear(Layer):
    """A small linear layer that every rank computes whole."""

    def __init__(self, placement: Placement, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = placement.weight(outputs, inputs)

    def forward(self, x: Tensor) -> Tensor:
        """(..., inputs) to (..., outputs)."""
        return F.linear(x, self.weight)

    def parts(self, name: str) -> Iterator[Part]:
        """The weight, whole."""
        shape = tuple(self.weight.shape)
        yield Part(f"{name}.weight", shape, whole(shape), self.weight)

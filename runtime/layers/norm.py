"""Root-mean-square normalisation (arXiv 1910.07467)."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from runtime.layers.parts import Layer, Part, Placement, whole


class RmsNorm(Layer):
    """Scales the last dimension to a root mean square of 1, in float32, then by a weight.

    Args:
        width: Of the last dimension.
        eps: Added to the mean square.
    """

    def __init__(self, placement: Placement, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self._communicator = placement.communicator
        self._kernels = placement.kernels
        self.weight = placement.weight(width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to the same."""
        return self._kernels.rms_norm(x, self.weight, self.eps)

    def add(self, part: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """Sum a block's output over ranks and add it to the residual stream: the stream normalised, and the stream.

        Args:
            part: (tokens, width): this rank's part of the output; it may be overwritten.
            residual: The stream so far, as the norm before left it; None where the output begins it.
        """
        return self._communicator.add_rms_norm(part, residual, self.weight, self.eps, self._kernels)

    def parts(self, name: str) -> Iterator[Part]:
        shape = tuple(self.weight.shape)
        yield Part(f"{name}.weight", shape, whole(shape), self.weight)

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
        self._kernels = placement.kernels
        self.weight = placement.weight(width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to the same."""
        return self._kernels.rms_norm(x, self.weight, self.eps)

    def add(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """Add a block's output to the residual stream: (tokens, width) to the sum normalised, and the sum.

        Args:
            x: The output; it may be overwritten.
            residual: The stream so far, which may be overwritten too; None where ``x`` begins it.
        """
        if residual is None:
            return self(x), x
        return self._kernels.add_rms_norm(x, residual, self.weight, self.eps)

    def parts(self, name: str) -> Iterator[Part]:
        shape = tuple(self.weight.shape)
        yield Part(f"{name}.weight", shape, whole(shape), self.weight)

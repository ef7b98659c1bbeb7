"""Root-mean-square normalisation (arXiv 1910.07467)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
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
        self._eps = eps
        self.weight = placement.weight(width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., width) to the same."""
        exact = x.float()
        scale = torch.rsqrt(exact.square().mean(-1, keepdim=True) + self._eps)
        return self.weight * (exact * scale).to(x.dtype)

    def parts(self, name: str) -> Iterator[Part]:
        shape = tuple(self.weight.shape)
        yield Part(f"{name}.weight", shape, whole(shape), self.weight)

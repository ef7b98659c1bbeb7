"""The feed-forward block of a decoder layer: SwiGLU (arXiv 2002.05202)."""

from __future__ import annotations

from torch import Tensor

from runtime.layers.linear import ColumnLinear, RowLinear, split_output
from runtime.layers.parts import Module, Placement


class GatedMlp(Module):
    """``down(silu(gate(x)) * up(x))``; the inner width is divided over ranks."""

    def __init__(self, placement: Placement, hidden_size: int, intermediate_size: int, *, bias: bool) -> None:
        super().__init__()
        self._kernels = placement.kernels
        placement.share("intermediate_size", intermediate_size)
        outputs = [split_output(placement, name, intermediate_size) for name in ("gate_proj", "up_proj")]
        self.gate_up_proj = ColumnLinear(placement, hidden_size, outputs, bias=bias)
        self.down_proj = RowLinear(placement, intermediate_size, hidden_size, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(tokens, hidden_size) to the same, this rank's part of the sum."""
        result: Tensor = self.down_proj(self._kernels.silu_and_mul(self.gate_up_proj(x)))
        return result

"""A mixture of experts as the feed-forward block (Mixtral, arXiv 2401.04088; Qwen3-MoE, arXiv 2505.09388)."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from runtime.kernels import Weight
from runtime.layers.linear import ReplicatedLinear
from runtime.layers.parts import Layer, Module, Part, Placement
from runtime.models.config import MoeConfig


class Experts(Layer):
    """The experts' SwiGLU weights, stacked; each rank holds a part of every expert's inner width."""

    def __init__(self, placement: Placement, hidden_size: int, moe: MoeConfig) -> None:
        super().__init__()
        self._kernels = placement.kernels
        width = placement.share("moe_intermediate_size", moe.moe_intermediate_size)
        self._width = moe.moe_intermediate_size
        self._start = placement.communicator.rank * width
        self.gate_up, self.gate_up_scales = placement.matrix(moe.num_experts, 2 * width, hidden_size)
        self.down, self.down_scales = placement.matrix(moe.num_experts, hidden_size, width)

    def forward(self, x: Tensor, experts: Tensor, weights: Tensor) -> Tensor:
        """This rank's part of the sum over each token's experts.

        Args:
            x: (tokens, hidden_size).
            experts: (tokens, chosen), which.
            weights: (tokens, chosen) float32, how much of each.

        Returns:
            (tokens, hidden_size).
        """
        gate_up, down = Weight(self.gate_up, self.gate_up_scales), Weight(self.down, self.down_scales)
        return self._kernels.experts(x, experts, weights, gate_up, down)

    def parts(self, name: str) -> Iterator[Part]:
        """Each expert's three matrices."""
        experts, hidden, width = self.down.shape
        mine, every = slice(self._start, self._start + width), slice(0, hidden)
        for expert in range(experts):
            source, gate_up = f"{name}.{expert}", self.gate_up[expert]
            outer, inner = (self._width, hidden), (hidden, self._width)
            gate_up_scales = None if self.gate_up_scales is None else self.gate_up_scales[expert]
            for projection, rows in (("gate_proj", slice(0, width)), ("up_proj", slice(width, 2 * width))):
                scales = None if gate_up_scales is None else gate_up_scales[rows]
                yield Part(f"{source}.{projection}.weight", outer, (mine, every), gate_up[rows], scales)
            scales = None if self.down_scales is None else self.down_scales[expert]
            yield Part(f"{source}.down_proj.weight", inner, (every, mine), self.down[expert], scales)


class SparseMoe(Module):
    """Sends each token to its likeliest experts and sums what they make of it."""

    def __init__(self, placement: Placement, hidden_size: int, moe: MoeConfig) -> None:
        super().__init__()
        self._kernels = placement.kernels
        self._moe = moe
        self.gate = ReplicatedLinear(placement, hidden_size, moe.num_experts)
        self.experts = Experts(placement, hidden_size, moe)

    def forward(self, x: Tensor) -> Tensor:
        """(tokens, hidden_size) to the same, this rank's part of the sum."""
        experts, weights = self._kernels.route(
            self.gate(x), self._moe.num_experts_per_tok, normalise=self._moe.norm_topk_prob
        )
        result: Tensor = self.experts(x, experts, weights)
        return result

"""A mixture of experts as the feed-forward block (Mixtral, arXiv 2401.04088; Qwen3-MoE, arXiv 2505.09388)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from runtime.layers.linear import ReplicatedLinear
from runtime.layers.parts import Layer, Part, Placement
from runtime.models.config import MoeConfig


class Experts(Layer):
    """The experts' SwiGLU weights, stacked; each rank holds a part of every expert's inner width."""

    def __init__(self, placement: Placement, hidden_size: int, moe: MoeConfig) -> None:
        super().__init__()
        self._kernels = placement.kernels
        width = placement.share("moe_intermediate_size", moe.moe_intermediate_size)
        self._width = moe.moe_intermediate_size
        self._start = placement.communicator.rank * width
        self.gate_up = placement.weight(moe.num_experts, 2 * width, hidden_size)
        self.down = placement.weight(moe.num_experts, hidden_size, width)

    def forward(self, x: Tensor, experts: Tensor, weights: Tensor) -> Tensor:
        """This rank's part of the sum over each token's experts.

        Args:
            x: (tokens, hidden_size).
            experts: (tokens, chosen) int64, which.
            weights: (tokens, chosen), how much of each.

        Returns:
            (tokens, hidden_size).
        """
        order = experts.flatten().argsort(stable=True)
        tokens = order // experts.shape[1]
        counts = experts.flatten().bincount(minlength=len(self.gate_up)).tolist()
        scale = weights.flatten()[order].unsqueeze(-1)
        results = []
        for expert, inputs in enumerate(torch.split(x[tokens], counts)):
            if len(inputs):
                gated = self._kernels.silu_and_mul(F.linear(inputs, self.gate_up[expert]))
                results.append(F.linear(gated, self.down[expert]))
        return torch.zeros_like(x).index_add_(0, tokens, torch.cat(results) * scale)

    def parts(self, name: str) -> Iterator[Part]:
        """Each expert's three matrices."""
        experts, hidden, width = self.down.shape
        mine, every = slice(self._start, self._start + width), slice(0, hidden)
        for expert in range(experts):
            source, gate_up = f"{name}.{expert}", self.gate_up[expert]
            outer, inner = (self._width, hidden), (hidden, self._width)
            yield Part(f"{source}.gate_proj.weight", outer, (mine, every), gate_up[:width])
            yield Part(f"{source}.up_proj.weight", outer, (mine, every), gate_up[width:])
            yield Part(f"{source}.down_proj.weight", inner, (every, mine), self.down[expert])


class SparseMoe(nn.Module):
    """Sends each token to its likeliest experts and sums what they make of it."""

    def __init__(self, placement: Placement, hidden_size: int, moe: MoeConfig) -> None:
        super().__init__()
        self._communicator = placement.communicator
        self._moe = moe
        self.gate = ReplicatedLinear(placement, hidden_size, moe.num_experts)
        self.experts = Experts(placement, hidden_size, moe)

    def forward(self, x: Tensor) -> Tensor:
        """(tokens, hidden_size) to the same."""
        likely = F.softmax(self.gate(x), dim=-1, dtype=torch.float32)
        weights, experts = likely.topk(self._moe.num_experts_per_tok, dim=-1)
        if self._moe.norm_topk_prob:
            weights = weights / weights.sum(dim=-1, keepdim=True)
        return self._communicator.all_reduce(self.experts(x, experts, weights.to(x.dtype)))

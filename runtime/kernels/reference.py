"""The kernels in plain PyTorch: the reference, and what runs on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 (its name everywhere)
from torch import Tensor

from runtime.kernels.base import HeadNorms, Kernels, Weight
from runtime.kernels.fp8 import FP8, as_bytes, quantize, to_fp8


class TorchKernels(Kernels):
    """Rounds where Hugging Face's models round."""

    def linear(self, x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
        if weight.scales is None:
            return F.linear(x, weight.values, bias)
        rounded, scales = quantize(x)
        out = (F.linear(rounded.float(), weight.values.float()) * scales.unsqueeze(-1) * weight.scales).to(x.dtype)
        return out if bias is None else out + bias

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        exact = x.float()
        scale = torch.rsqrt(exact.square().mean(-1, keepdim=True) + eps)
        return weight * (exact * scale).to(x.dtype)

    def add_rms_norm(self, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        residual = residual + x
        return self.rms_norm(residual, weight, eps), residual

    def silu_and_mul(self, x: Tensor) -> Tensor:
        gate, up = x.chunk(2, dim=-1)
        return F.silu(gate) * up

    def rotate_and_store(
        self,
        qkv: Tensor,
        norms: HeadNorms | None,
        cos: Tensor,
        sin: Tensor,
        keys: Tensor,
        values: Tensor,
        slots: Tensor,
    ) -> Tensor:
        kv_heads = keys.shape[1]
        q, k, v = torch.split(qkv, [qkv.shape[1] - 2 * kv_heads, kv_heads, kv_heads], dim=1)
        if norms is not None:
            q, k = self.rms_norm(q, norms.q, norms.eps), self.rms_norm(k, norms.k, norms.eps)
        for pool, heads in ((keys, rotate(k, cos, sin)), (values, v)):
            as_bytes(pool)[slots] = as_bytes(to_fp8(heads)) if pool.dtype == FP8 else heads
        return rotate(q, cos, sin)

    def route(self, scores: Tensor, chosen: int, *, normalise: bool) -> tuple[Tensor, Tensor]:
        likely = F.softmax(scores, dim=-1, dtype=torch.float32)
        weights, experts = likely.topk(chosen, dim=-1)
        return experts, weights / weights.sum(dim=-1, keepdim=True) if normalise else weights

    def experts(self, x: Tensor, experts: Tensor, weights: Tensor, gate_up: Weight, down: Weight) -> Tensor:
        order = experts.flatten().argsort(stable=True)
        tokens = order // experts.shape[1]
        counts = experts.flatten().bincount(minlength=len(down.values)).tolist()
        scale = weights.to(x.dtype).flatten()[order].unsqueeze(-1)
        results = []
        for expert, inputs in enumerate(torch.split(x[tokens], counts)):
            if len(inputs):
                gated = self.silu_and_mul(self.linear(inputs, _of(gate_up, expert)))
                results.append(self.linear(gated, _of(down, expert)))
        return torch.zeros_like(x).index_add_(0, tokens, torch.cat(results) * scale)


def _of(weight: Weight, expert: int) -> Weight:
    return Weight(weight.values[expert], None if weight.scales is None else weight.scales[expert])


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate (tokens, heads, head_dim) by (tokens, 1, head_dim / 2)."""
    left, right = x.chunk(2, dim=-1)
    return torch.cat([left * cos - right * sin, right * cos + left * sin], dim=-1)

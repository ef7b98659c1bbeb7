"""The kernels in Triton: one pass over memory each, computed in float32."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
# ruff: noqa: N803 (compile-time constants of a kernel are written in capitals)

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 (its name everywhere)
import triton  # comes with the CUDA builds of torch alone
import triton.language as tl
from torch import Tensor

from runtime.kernels.base import HeadNorms, Kernels, Weight
from runtime.kernels.direct import direct, power_of_2
from runtime.kernels.fused_fp8 import scaled_linear
from runtime.kernels.fused_moe import experts_sum, route
from runtime.kernels.launch import OVERLAP_TOKENS, overlap, row_warps
from runtime.kernels.skinny import skinny_linear, skinny_tiling

_HEADS = 4  # that one program turns
_ACTIVATIONS = 1024  # that one program gates


class FusedKernels(Kernels):
    """For activations whose rows lie one behind the other.

    Args:
        overlap_launch: Whether, in small steps, a kernel is launched while the one before it ends, and waits for it on
            the device (programmatic dependent launch): from compute capability 9 on.
    """

    def __init__(self, *, overlap_launch: bool) -> None:
        self._overlap = overlap_launch

    def linear(self, x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
        pdl = self._overlaps(x)
        if weight.scales is not None:
            out = scaled_linear(x, weight.values, weight.scales, overlap_launch=pdl)
            return out if bias is None else out + bias
        outputs, inputs = weight.values.shape
        # Without an early launch nothing is gained on cuBLAS.
        tiling = skinny_tiling(x.numel() // inputs, inputs, outputs) if pdl else None
        if tiling is None:
            return F.linear(x, weight.values, bias)
        return skinny_linear(x, weight.values, bias, tiling, overlap_launch=pdl)

    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        width = x.shape[-1]
        out = torch.empty_like(x)
        pdl = self._overlaps(x)
        block = power_of_2(width)
        _rms_norm[(x.numel() // width,)](
            x, weight, out, width, eps, BLOCK=block, PDL=pdl, num_warps=row_warps(block), **overlap(pdl)
        )
        return out

    def add_rms_norm(self, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        tokens, width = x.shape
        pdl = self._overlaps(x)
        block = power_of_2(width)
        _add_rms_norm[(tokens,)](
            x, residual, weight, width, eps, BLOCK=block, PDL=pdl, num_warps=row_warps(block), **overlap(pdl)
        )
        return x, residual

    def silu_and_mul(self, x: Tensor) -> Tensor:
        width = x.shape[-1] // 2
        out = x.new_empty(*x.shape[:-1], width)
        pdl = self._overlaps(x)
        grid = (out.numel() // width, -(-width // _ACTIVATIONS))
        _silu_and_mul[grid](x, out, width, BLOCK=_ACTIVATIONS, PDL=pdl, num_warps=4, **overlap(pdl))
        return out

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
        tokens, all_heads, head_dim = qkv.shape
        pdl = self._overlaps(qkv)
        kv_heads = keys.shape[1]
        heads = all_heads - 2 * kv_heads
        _rotate_and_store[(tokens, -(-all_heads // _HEADS))](
            qkv,
            qkv if norms is None else norms.q,
            qkv if norms is None else norms.k,
            cos,
            sin,
            keys,
            values,
            slots,
            0.0 if norms is None else norms.eps,
            heads,
            kv_heads,
            NORM=norms is not None,
            HALF=head_dim // 2,
            BLOCK=power_of_2(head_dim // 2),
            HEADS=_HEADS,
            PDL=pdl,
            num_warps=2,
            **overlap(pdl),
        )
        return qkv[:, :heads]

    def route(self, scores: Tensor, chosen: int, *, normalise: bool) -> tuple[Tensor, Tensor]:
        return route(scores, chosen, normalise=normalise, overlap_launch=self._overlaps(scores))

    def experts(self, x: Tensor, experts: Tensor, weights: Tensor, gate_up: Weight, down: Weight) -> Tensor:
        return experts_sum(
            x,
            experts,
            weights,
            gate_up,
            down,
            silu_and_mul=self.silu_and_mul,
            overlap_launch=self._overlaps(x),
        )

    def _overlaps(self, x: Tensor) -> bool:
        return self._overlap and x.shape[0] <= OVERLAP_TOKENS


@direct
@triton.jit
def _rms_norm(x, weight, out, width, eps, BLOCK: tl.constexpr, PDL: tl.constexpr) -> None:
    row = tl.program_id(0).to(tl.int64) * width
    column = tl.arange(0, BLOCK)
    there = column < width
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    value = tl.load(x + row + column, mask=there, other=0.0).to(tl.float32)
    scale = tl.rsqrt(tl.sum(value * value, axis=0) / width + eps)
    scaled = value * scale * tl.load(weight + column, mask=there, other=0.0).to(tl.float32)
    tl.store(out + row + column, scaled.to(out.dtype.element_ty), mask=there)


@direct
@triton.jit
def _add_rms_norm(x, residual, weight, width, eps, BLOCK: tl.constexpr, PDL: tl.constexpr) -> None:
    row = tl.program_id(0).to(tl.int64) * width
    column = tl.arange(0, BLOCK)
    there = column < width
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    added = tl.load(x + row + column, mask=there, other=0.0).to(tl.float32)
    value = tl.load(residual + row + column, mask=there, other=0.0).to(tl.float32) + added
    tl.store(residual + row + column, value.to(residual.dtype.element_ty), mask=there)
    scale = tl.rsqrt(tl.sum(value * value, axis=0) / width + eps)
    scaled = value * scale * tl.load(weight + column, mask=there, other=0.0).to(tl.float32)
    tl.store(x + row + column, scaled.to(x.dtype.element_ty), mask=there)


@direct
@triton.jit
def _silu_and_mul(x, out, width, BLOCK: tl.constexpr, PDL: tl.constexpr) -> None:
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = column < width
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    gate = tl.load(x + row * 2 * width + column, mask=there, other=0.0).to(tl.float32)
    up = tl.load(x + row * 2 * width + width + column, mask=there, other=0.0).to(tl.float32)
    gated = gate / (1.0 + tl.exp(-gate)) * up
    tl.store(out + row * width + column, gated.to(out.dtype.element_ty), mask=there)


@direct
@triton.jit(do_not_specialize_on_alignment=["slots"])  # they stand behind others, of any number
def _rotate_and_store(
    qkv,
    q_weight,
    k_weight,
    cos,
    sin,
    keys,
    values,
    slots,
    eps,
    heads,
    kv_heads,
    NORM: tl.constexpr,
    HALF: tl.constexpr,
    BLOCK: tl.constexpr,
    HEADS: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    is_q = head < heads
    is_k = (head >= heads) & (head < heads + kv_heads)
    is_v = (head >= heads + kv_heads) & (head < heads + 2 * kv_heads)
    inside = column < HALF
    there = inside & (head < heads + 2 * kv_heads)
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    at = qkv + (token * (heads + 2 * kv_heads) + head) * (2 * HALF) + column
    raw_left = tl.load(at, mask=there, other=0.0)
    raw_right = tl.load(at + HALF, mask=there, other=0.0)
    left, right = raw_left.to(tl.float32), raw_right.to(tl.float32)
    if NORM:
        mean_square = tl.sum(left * left + right * right, axis=1) / (2 * HALF)
        scale = tl.rsqrt(mean_square + eps)[:, None]
        q_left = tl.load(q_weight + column, mask=inside, other=0.0).to(tl.float32)
        q_right = tl.load(q_weight + HALF + column, mask=inside, other=0.0).to(tl.float32)
        k_left = tl.load(k_weight + column, mask=inside, other=0.0).to(tl.float32)
        k_right = tl.load(k_weight + HALF + column, mask=inside, other=0.0).to(tl.float32)
        left = left * scale * tl.where(is_q, q_left, k_left)
        right = right * scale * tl.where(is_q, q_right, k_right)
    c = tl.load(cos + token * HALF + column, mask=inside, other=0.0).to(tl.float32)
    s = tl.load(sin + token * HALF + column, mask=inside, other=0.0).to(tl.float32)
    turned_left = (left * c - right * s).to(qkv.dtype.element_ty)
    turned_right = (right * c + left * s).to(qkv.dtype.element_ty)
    tl.store(at, turned_left, mask=inside & is_q)
    tl.store(at + HALF, turned_right, mask=inside & is_q)
    slot = tl.load(slots + token) * kv_heads
    to_key = keys + (slot + head - heads) * (2 * HALF) + column
    tl.store(to_key, turned_left, mask=inside & is_k)
    tl.store(to_key + HALF, turned_right, mask=inside & is_k)
    to_value = values + (slot + head - heads - kv_heads) * (2 * HALF) + column
    tl.store(to_value, raw_left, mask=inside & is_v)
    tl.store(to_value + HALF, raw_right, mask=inside & is_v)

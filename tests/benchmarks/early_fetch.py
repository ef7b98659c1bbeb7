"""Weights fetched into the L2 cache while a small kernel runs: a candidate, in no model.

Between the matrix products of a decode step the memory idles. A kernel that waits for nothing asks for the beginning of
the next product's weights; it ends when what was before it has, so that what follows may rely on that.
"""

# ruff: noqa: N803 (compile-time constants of a kernel are written in capitals)
from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from runtime.kernels import HeadNorms, Weight
from runtime.kernels.fused import FusedKernels
from runtime.models.decoder import CausalLm

_LINE_BYTES = 128
_LINES = 512  # that a program asks for
_TOKENS = 64  # of the largest step: larger ones leave the memory no rest


@triton.jit
def _fetch(w, LINES: tl.constexpr, LINE_BYTES: tl.constexpr) -> None:
    tl.extra.cuda.gdc_launch_dependents()
    line = tl.program_id(0) * LINES + tl.arange(0, LINES)
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;",
        "=r,l",
        [w.to(tl.int64) + line.to(tl.int64) * LINE_BYTES],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )
    tl.extra.cuda.gdc_wait()


class FetchingKernels(FusedKernels):
    """Fused kernels before each of which the next product's weights are asked for.

    Args:
        model: Dense; its layers' products come in the order of their kinds.
        fetch_bytes: How much of each product's weights.
    """

    def __init__(self, model: CausalLm, fetch_bytes: int) -> None:
        super().__init__(overlap_launch=True)
        layers: list[Any] = list(model.model.layers)
        order = [
            weight
            for layer in layers
            for weight in (
                layer.self_attn.qkv_proj.weight,
                layer.self_attn.o_proj.weight,
                layer.mlp.gate_up_proj.weight,
                layer.mlp.down_proj.weight,
            )
        ]
        self._after = {before.data_ptr(): after for before, after in zip(order, order[1:] + order[:1], strict=True)}
        self._last = order[-1].data_ptr()
        self._bytes = fetch_bytes

    def linear(self, x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
        self._last = weight.values.data_ptr()
        return super().linear(x, weight, bias)

    def add_rms_norm(self, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        self._fetch(len(x))
        return super().add_rms_norm(x, residual, weight, eps)

    def silu_and_mul(self, x: Tensor) -> Tensor:
        self._fetch(len(x))
        return super().silu_and_mul(x)

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
        self._fetch(len(qkv))
        return super().rotate_and_store(qkv, norms, cos, sin, keys, values, slots)

    def _fetch(self, tokens: int) -> None:
        if tokens > _TOKENS:
            return
        weight = self._after[self._last]
        count = min(self._bytes, weight.numel() * weight.element_size()) // (_LINES * _LINE_BYTES)
        _fetch[(count,)](weight, LINES=_LINES, LINE_BYTES=_LINE_BYTES, num_warps=4, launch_pdl=True)

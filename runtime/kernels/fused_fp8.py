"""Matrix products in fp8 on a GPU: rows are quantised in Triton and multiplied by cuBLAS or CUTLASS."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
# ruff: noqa: N803 (compile-time constants of a kernel are written in capitals)

from __future__ import annotations

import torch
import triton  # comes with the CUDA builds of torch alone
import triton.language as tl
from torch import Tensor

from runtime.kernels.direct import direct, power_of_2
from runtime.kernels.fp8 import FP8, LARGEST
from runtime.kernels.launch import overlap, row_warps


def quantize_rows(x: Tensor, *, overlap_launch: bool) -> tuple[Tensor, Tensor]:
    """What :func:`runtime.kernels.fp8.quantize` does, in one pass.

    Args:
        x: (..., width), rows one behind the other.
        overlap_launch: Whether the kernel may be launched while the one before it ends.
    """
    width = x.shape[-1]
    rounded = torch.empty(x.shape, dtype=FP8, device=x.device)
    scales = torch.empty(x.shape[:-1], dtype=torch.float32, device=x.device)
    block = power_of_2(width)
    _quantize_rows[(scales.numel(),)](
        x,
        rounded,
        scales,
        width,
        LARGEST=LARGEST,
        BLOCK=block,
        PDL=overlap_launch,
        num_warps=row_warps(block),
        **overlap(overlap_launch),
    )
    return rounded, scales


def scaled_linear(x: Tensor, values: Tensor, scales: Tensor, *, overlap_launch: bool) -> Tensor:
    """A product of activations, rounded to fp8 row by row, and fp8 weights.

    Args:
        x: (..., inputs) bfloat16.
        values: (outputs, inputs) fp8; both are multiples of 16.
        scales: (outputs,) float32.
        overlap_launch: Whether kernels may be launched while the ones before them end.

    Returns:
        (..., outputs) bfloat16.
    """
    rounded, row_scales = quantize_rows(x.reshape(-1, x.shape[-1]), overlap_launch=overlap_launch)
    out = torch._scaled_mm(  # noqa: SLF001 (torch 2.11's way to cuBLAS and CUTLASS)
        rounded,
        values.t(),
        scale_a=row_scales.unsqueeze(1),
        scale_b=scales.unsqueeze(0),
        out_dtype=x.dtype,
        use_fast_accum=True,
    )
    return out.view(*x.shape[:-1], -1)


@direct
@triton.jit
def _quantize_rows(x, rounded, scales, width, LARGEST: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr) -> None:
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    there = column < width
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    value = tl.load(x + row * width + column, mask=there, other=0.0).to(tl.float32)
    scale = tl.maximum(tl.max(tl.abs(value), axis=0), 1e-12) / LARGEST
    value = tl.minimum(tl.maximum(value / scale, -LARGEST), LARGEST)
    tl.store(rounded + row * width + column, value.to(rounded.dtype.element_ty), mask=there)
    tl.store(scales + row, scale)

"""A matrix product in Triton for few rows, its inputs split over programs: a candidate beside cuBLAS, in no model."""

# ruff: noqa: N803 (compile-time constants of a kernel are written in capitals)
from __future__ import annotations

import torch
import triton
import triton.language as tl

GEMM_TILINGS = (  # rows, columns, depth, parts of the inputs, warps, stages
    (64, 64, 128, 1, 4, 4),
    (64, 128, 64, 1, 4, 5),
    (128, 128, 64, 1, 8, 4),
    (64, 128, 64, 4, 4, 5),
    (128, 128, 64, 2, 8, 4),
)


@triton.jit
def _gemm(
    x,
    w,
    out,
    rows,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
    PARTS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
) -> None:
    """A part of the inputs of (rows, INPUTS) by (OUTPUTS, INPUTS): parts are summed by the caller."""
    part = tl.program_id(2)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inner = part * (INPUTS // PARTS) + tl.arange(0, DEPTH)
    left_at = x + row[:, None] * INPUTS + inner[None, :]
    right_at = w + column[:, None] * INPUTS + inner[None, :]
    product = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(0, INPUTS // PARTS, DEPTH):
        left = tl.load(left_at + start, mask=(row < rows)[:, None], other=0.0)
        product = tl.dot(left, tl.trans(tl.load(right_at + start)), product)
    to = out + (part * rows + row)[:, None] * OUTPUTS + column[None, :]
    tl.store(to, product.to(out.dtype.element_ty), mask=(row < rows)[:, None])


def triton_linear(x: torch.Tensor, w: torch.Tensor, tiling: tuple[int, ...]) -> torch.Tensor:
    block, columns, depth, parts, warps, stages = tiling
    (rows, inputs), outputs = x.shape, len(w)
    out = torch.empty((parts, rows, outputs), dtype=x.dtype if parts == 1 else torch.float32, device=x.device)
    _gemm[(triton.cdiv(rows, block), outputs // columns, parts)](
        x, w, out, rows, outputs, inputs, parts, block, columns, depth, num_warps=warps, num_stages=stages
    )
    return out[0] if parts == 1 else out.sum(0).to(x.dtype)

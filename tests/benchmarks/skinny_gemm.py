"""A matrix product in Triton for at most 16 rows, which fetches weights while the kernel before ends: a candidate.

A decode step of few sequences reads weights and little else. Between two matrix products the memory idles: the small
kernels between them, and the start and end of each. Weights depend on nothing, so this kernel is launched early
(programmatic dependent launch), has the L2 cache fetch the first part of its weights, and waits for its input then.
"""

# ruff: noqa: N803 (compile-time constants of a kernel are written in capitals)
from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl

ROWS = 16  # the most; fewer are padded
_LINE = 64  # bfloat16 values of a cache line


class SkinnyTiling(NamedTuple):
    """How a product is cut.

    Attributes:
        outputs: Of a program.
        depth: Inputs at a time.
        warps: Of a program.
        stages: Of the pipeline.
        lines: Cache lines of each output's weights to fetch early; 0 for none, a power of two.
    """

    outputs: int
    depth: int
    warps: int
    stages: int
    lines: int


SKINNY_TILINGS = (
    SkinnyTiling(32, 256, 2, 4, 0),
    SkinnyTiling(32, 256, 2, 4, 16),
    SkinnyTiling(32, 128, 2, 6, 16),
    SkinnyTiling(16, 256, 1, 5, 16),
    SkinnyTiling(16, 256, 1, 5, 64),
    SkinnyTiling(64, 128, 4, 4, 16),
    SkinnyTiling(32, 256, 4, 4, 64),
)


@triton.jit
def _skinny(
    x,
    w,
    out,
    rows,
    outputs,
    INPUTS: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    DEPTH: tl.constexpr,
    LINES: tl.constexpr,
    LINE: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    output = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    row = tl.arange(0, ROWS)
    inner = tl.arange(0, DEPTH)
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        if LINES > 0:
            line = w + output[:, None].to(tl.int64) * INPUTS + (tl.arange(0, LINES) * LINE)[None, :]
            tl.inline_asm_elementwise(
                "prefetch.global.L2 [$1]; mov.u32 $0, 0;",
                "=r,l",
                [line.to(tl.int64)],
                dtype=tl.int32,
                is_pure=False,
                pack=1,
            )
        tl.extra.cuda.gdc_wait()
    w_at = w + output[:, None].to(tl.int64) * INPUTS + inner[None, :]
    x_at = x + row[:, None] * INPUTS + inner[None, :]
    product = tl.zeros([OUTPUTS, ROWS], tl.float32)
    for start in range(0, INPUTS, DEPTH):
        weights = tl.load(w_at + start)
        inputs = tl.load(x_at + start, mask=(row < rows)[:, None], other=0.0)
        product = tl.dot(weights, tl.trans(inputs), product)
    to = out + row[None, :] * outputs + output[:, None]
    tl.store(to, product.to(out.dtype.element_ty), mask=(row < rows)[None, :])


def skinny_linear(x: torch.Tensor, w: torch.Tensor, tiling: SkinnyTiling, *, overlap: bool) -> torch.Tensor:
    """``x @ w.T``.

    Args:
        x: (rows, inputs), at most :data:`ROWS` rows; inputs divide by the tiling's depth.
        w: (outputs, inputs); outputs divide by the tiling's.
        tiling: See there.
        overlap: Whether it may be launched while the kernel before it ends.
    """
    (rows, inputs), outputs = x.shape, len(w)
    if rows > ROWS or outputs % tiling.outputs or inputs % tiling.depth or tiling.lines * _LINE > inputs:
        raise ValueError(f"{rows} rows of {inputs} to {outputs}: not by {tiling}")
    out = torch.empty((rows, outputs), dtype=x.dtype, device=x.device)
    _skinny[(outputs // tiling.outputs,)](
        x,
        w,
        out,
        rows,
        outputs,
        INPUTS=inputs,
        ROWS=ROWS,
        OUTPUTS=tiling.outputs,
        DEPTH=tiling.depth,
        LINES=tiling.lines if overlap else 0,
        LINE=_LINE,
        PDL=overlap,
        num_warps=tiling.warps,
        num_stages=tiling.stages,
        **({"launch_pdl": True} if overlap else {}),
    )
    return out

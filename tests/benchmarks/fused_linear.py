"""Products of few rows with what stands beside them in a layer: candidates, in no model.

SwiGLU's gate after the product of gate and up, or RMSNorm before a product, each a kernel less.
"""

# ruff: noqa: N803 (compile-time constants of a kernel are written in capitals)
from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from runtime.kernels.launch import overlap
from runtime.kernels.skinny import SkinnyTiling, fetch_lines

ROWS = 16
_LINE = 64
GATED = (
    SkinnyTiling(16, 256, 1, 4, 16),
    SkinnyTiling(16, 128, 1, 6, 16),
    SkinnyTiling(16, 128, 1, 5, 8),
    SkinnyTiling(32, 128, 2, 5, 16),
)
NORMED = (
    SkinnyTiling(16, 256, 1, 5, 16),
    SkinnyTiling(16, 256, 2, 5, 16),
    SkinnyTiling(32, 256, 2, 4, 16),
    SkinnyTiling(32, 256, 4, 4, 16),
)


def _options(tiling: SkinnyTiling) -> dict[str, Any]:
    return {"num_warps": tiling.warps, "num_stages": tiling.stages, **overlap(wanted=True)}


def gated_linear(x: Tensor, weight: Tensor, tiling: SkinnyTiling) -> Tensor:
    """``silu(x @ gate.T) * (x @ up.T)``.

    Args:
        x: (rows, inputs), at most 16 rows.
        weight: (2 * width, inputs): gate, then up.
        tiling: Its outputs divide the width.

    Returns:
        (rows, width).
    """
    (rows, inputs), width = x.shape, len(weight) // 2
    out = x.new_empty(rows, width)
    sizes = {"INPUTS": inputs, "ROWS": ROWS, "OUTPUTS": tiling.outputs, "DEPTH": tiling.depth}
    _gated[(width // tiling.outputs,)](
        x, weight, out, rows, width, **sizes, LINES=tiling.lines, LINE=_LINE, **_options(tiling)
    )
    return out


def normed_linear(x: Tensor, norm: Tensor, weight: Tensor, eps: float, tiling: SkinnyTiling) -> Tensor:
    """``rms_norm(x, norm) @ weight.T``.

    Args:
        x: (rows, inputs), at most 16 rows.
        norm: (inputs,) the norm's weight.
        weight: (outputs, inputs).
        eps: Added to the mean square.
        tiling: Its outputs divide the weight's.
    """
    (rows, inputs), outputs = x.shape, len(weight)
    out = x.new_empty(rows, outputs)
    sizes = {"INPUTS": inputs, "ROWS": ROWS, "OUTPUTS": tiling.outputs, "DEPTH": tiling.depth}
    _normed[(outputs // tiling.outputs,)](
        x, norm, weight, out, rows, outputs, eps, **sizes, LINES=tiling.lines, LINE=_LINE, **_options(tiling)
    )
    return out


@triton.jit
def _gated(
    x,
    weight,
    out,
    rows,
    width,
    INPUTS: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    DEPTH: tl.constexpr,
    LINES: tl.constexpr,
    LINE: tl.constexpr,
) -> None:
    output = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    row = tl.arange(0, ROWS)
    inner = tl.arange(0, DEPTH)
    gate_at = weight + output[:, None].to(tl.int64) * INPUTS
    up_at = weight + (width + output)[:, None].to(tl.int64) * INPUTS
    tl.extra.cuda.gdc_launch_dependents()
    line = (tl.arange(0, LINES) * LINE)[None, :]
    fetch_lines(gate_at + line)
    fetch_lines(up_at + line)
    tl.extra.cuda.gdc_wait()
    gate_at += inner[None, :]
    up_at += inner[None, :]
    there = (row < rows)[:, None]
    inputs_at = x + row[:, None] * INPUTS + inner[None, :]
    gate = tl.zeros([OUTPUTS, ROWS], tl.float32)
    up = tl.zeros([OUTPUTS, ROWS], tl.float32)
    for start in range(0, INPUTS, DEPTH):
        gate_weights = tl.load(gate_at + start)
        up_weights = tl.load(up_at + start)
        inputs = tl.trans(tl.load(inputs_at + start, mask=there, other=0.0))
        gate = tl.dot(gate_weights, inputs, gate)
        up = tl.dot(up_weights, inputs, up)
    gated = gate / (1.0 + tl.exp(-gate)) * up
    to = out + row[None, :] * width + output[:, None]
    tl.store(to, gated.to(out.dtype.element_ty), mask=tl.trans(there))


@triton.jit
def _normed(
    x,
    norm,
    weight,
    out,
    rows,
    outputs,
    eps,
    INPUTS: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    DEPTH: tl.constexpr,
    LINES: tl.constexpr,
    LINE: tl.constexpr,
) -> None:
    output = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    row = tl.arange(0, ROWS)
    inner = tl.arange(0, DEPTH)
    weights_at = weight + output[:, None].to(tl.int64) * INPUTS
    tl.extra.cuda.gdc_launch_dependents()
    fetch_lines(weights_at + (tl.arange(0, LINES) * LINE)[None, :])
    tl.extra.cuda.gdc_wait()
    weights_at += inner[None, :]
    there = (row < rows)[:, None]
    inputs_at = x + row[:, None] * INPUTS + inner[None, :]
    product = tl.zeros([OUTPUTS, ROWS], tl.float32)
    squares = tl.zeros([ROWS, ROWS], tl.float32)
    for start in range(0, INPUTS, DEPTH):
        weights = tl.load(weights_at + start)
        inputs = tl.load(inputs_at + start, mask=there, other=0.0)
        # Each row by itself stands on the diagonal: the matrix units sum squares while they wait for weights.
        squares = tl.dot(inputs, tl.trans(inputs), squares)
        scaled = inputs * tl.load(norm + start + inner)[None, :]
        product = tl.dot(weights, tl.trans(scaled), product)
    square = tl.sum(tl.where(row[:, None] == row[None, :], squares, 0.0), axis=0)
    product *= tl.rsqrt(square / INPUTS + eps)[None, :]
    to = out + row[None, :] * outputs + output[:, None]
    tl.store(to, product.to(out.dtype.element_ty), mask=tl.trans(there))

"""A matrix product whose inputs are divided over programs, for few rows: a candidate beside cuBLAS, in no model.

The parts' sums, float32, are added by a second kernel: more programs share the memory, and more of them read the
activations.
"""

# ruff: noqa: N803 (compile-time constants of a kernel are written in capitals)
from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from runtime.kernels.launch import overlap
from runtime.kernels.skinny import TILING, SkinnyTiling, fetch_lines, skinny_linear

_LINE = 64
_SUMS = 1024  # of a program


class Cut(NamedTuple):
    """How a product is cut: of each of ``parts`` of the inputs, by a tiling."""

    tiling: SkinnyTiling
    parts: int


FEW_ROWS = (
    Cut(TILING, 1),
    Cut(TILING._replace(lines=8), 1),
    Cut(TILING._replace(stages=6), 1),
    Cut(SkinnyTiling(32, 256, 2, 4, 16), 1),
    Cut(TILING, 2),
    Cut(TILING, 4),
)
"""For up to 16 rows."""
MANY_ROWS = (
    Cut(SkinnyTiling(32, 128, 2, 5, 16), 1),
    Cut(SkinnyTiling(64, 128, 4, 4, 8), 1),
    Cut(SkinnyTiling(64, 128, 4, 3, 8), 1),
    Cut(SkinnyTiling(64, 128, 4, 3, 8), 2),
    Cut(SkinnyTiling(64, 128, 4, 3, 8), 4),
    Cut(SkinnyTiling(128, 64, 4, 5, 4), 1),
    Cut(SkinnyTiling(128, 64, 4, 5, 4), 4),
)
"""For 17 to 64: programs of more outputs read the activations less often, by Hopper's matrix instructions."""


def fits(outputs: int, inputs: int, cut: Cut) -> bool:
    """Whether a product can be cut so."""
    tiling, parts = cut
    whole = outputs % tiling.outputs == 0 and inputs % (parts * tiling.depth) == 0
    return whole and parts * tiling.lines * _LINE <= inputs


def cut_linear(x: Tensor, weight: Tensor, cut: Cut) -> Tensor:
    """``x @ weight.T``.

    Args:
        x: (rows, inputs), at most 64 rows.
        weight: (outputs, inputs).
        cut: The inputs of a part divide by its depth, the outputs by its.

    Raises:
        ValueError: The product cannot be cut so.
    """
    tiling, parts = cut
    if parts == 1:
        return skinny_linear(x, weight, None, tiling, overlap_launch=True)
    (rows, inputs), outputs = x.shape, len(weight)
    if not fits(outputs, inputs, cut):
        raise ValueError(f"a product of {inputs} inputs and {outputs} outputs cannot be cut by {cut}")
    sums = torch.empty((parts, rows, outputs), dtype=torch.float32, device=x.device)
    _split[(outputs // tiling.outputs, parts)](
        x,
        weight,
        sums,
        rows,
        outputs,
        INPUTS=inputs,
        PART=inputs // parts,
        ROWS=max(16, triton.next_power_of_2(rows)),
        OUTPUTS=tiling.outputs,
        DEPTH=tiling.depth,
        LINES=tiling.lines,
        LINE=_LINE,
        num_warps=tiling.warps,
        num_stages=tiling.stages,
        **overlap(wanted=True),
    )
    out = x.new_empty(rows, outputs)
    _add[(triton.cdiv(rows * outputs, _SUMS),)](
        sums, out, rows * outputs, PARTS=parts, BLOCK=_SUMS, num_warps=4, **overlap(wanted=True)
    )
    return out


@triton.jit
def _split(
    x,
    weight,
    sums,
    rows,
    outputs,
    INPUTS: tl.constexpr,
    PART: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    DEPTH: tl.constexpr,
    LINES: tl.constexpr,
    LINE: tl.constexpr,
) -> None:
    part = tl.program_id(1)
    output = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    row = tl.arange(0, ROWS)
    inner = tl.arange(0, DEPTH)
    weights_at = weight + output[:, None].to(tl.int64) * INPUTS + part * PART
    tl.extra.cuda.gdc_launch_dependents()
    if LINES > 0:
        fetch_lines(weights_at + (tl.arange(0, LINES) * LINE)[None, :])
    tl.extra.cuda.gdc_wait()
    weights_at += inner[None, :]
    there = (row < rows)[:, None]
    inputs_at = x + row[:, None] * INPUTS + part * PART + inner[None, :]
    product = tl.zeros([OUTPUTS, ROWS], tl.float32)
    for start in range(0, PART, DEPTH):
        weights = tl.load(weights_at + start)
        inputs = tl.load(inputs_at + start, mask=there, other=0.0)
        product = tl.dot(weights, tl.trans(inputs), product)
    to = sums + (part * rows + row)[None, :] * outputs + output[:, None]
    tl.store(to, product, mask=tl.trans(there))


@triton.jit
def _add(sums, out, count, PARTS: tl.constexpr, BLOCK: tl.constexpr) -> None:
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = at < count
    tl.extra.cuda.gdc_launch_dependents()
    tl.extra.cuda.gdc_wait()
    total = tl.zeros([BLOCK], tl.float32)
    for part in tl.static_range(PARTS):
        total += tl.load(sums + part * count + at, mask=there, other=0.0)
    tl.store(out + at, total.to(out.dtype.element_ty), mask=there)

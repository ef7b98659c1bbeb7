"""Matrix products of few rows, which fetch weights while the kernel before them ends."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
# ruff: noqa: N803 (compile-time constants of a kernel are written in capitals)

from __future__ import annotations

from typing import NamedTuple

import triton  # comes with the CUDA builds of torch alone
import triton.language as tl
from torch import Tensor

from runtime.kernels.direct import direct, power_of_2
from runtime.kernels.launch import overlap

_LEAST_ROWS = 16  # of a matrix instruction; fewer are padded
LINE = 64  # numbers of 16 bits of a line of the L2 cache


class SkinnyTiling(NamedTuple):
    """How a product is cut.

    Attributes:
        outputs: That a program computes.
        depth: Inputs that it multiplies at a time, a power of two.
        warps: Of a program.
        stages: Depths that loads are ahead of products.
        lines: Cache lines of each output's weights that are fetched early: 0, or a power of two.
    """

    outputs: int
    depth: int
    warps: int
    stages: int
    lines: int


SHALLOW = SkinnyTiling(outputs=16, depth=256, warps=1, stages=5, lines=8)
"""For up to 16 rows: many small programs share the memory evenly to the end, and start as soon as one of the kernel
before leaves. Three at a time find room on a processor. More lines fetched early delay those whose turn it is."""

DEEP = SHALLOW._replace(stages=6)
"""Two at a time, each with more loads under way: where three would leave processors idle."""

ALONE = SkinnyTiling(outputs=64, depth=128, warps=4, stages=4, lines=8)
"""For up to 64 rows, a program to a processor: of more outputs, so that the activations are read less often."""

LARGE = SkinnyTiling(outputs=128, depth=64, warps=4, stages=5, lines=4)
"""For up to 64 rows and many outputs."""

_FEW_ROWS, _MOST_ROWS = 16, 64
TILINGS = {_FEW_ROWS: (SHALLOW, DEEP), _MOST_ROWS: (ALONE, LARGE)}
"""By how many rows each is made for at most."""

_PROCESSORS = 132  # of an H100 and of an H200
_DEEP_PAYS = 0.7  # of the rounds, or less
_LEAST_FILL = 0.55, 0.75  # of the processors, by the programs of ALONE and of LARGE: fewer leave too much memory idle


def skinny_tiling(rows: int, inputs: int, outputs: int) -> SkinnyTiling | None:
    """How to cut a product that is faster so than by cuBLAS; None where it is not, or does not divide.

    Measured on an H100 with the kernel before it, on the products of Qwen3 of 0.6B, 8B, 14B, 32B, 30B-A3B and of halves
    and quarters of 32B: for 1 and 16 rows 0.97 to 1.31 times as fast as cuBLAS (1.08 in the middle), for 64 rows, where
    one is taken, 0.95 to 1.16 (1.02).
    """
    if rows <= _FEW_ROWS:
        programs = outputs // SHALLOW.outputs
        tiling = DEEP if _rounds(programs, 2) <= _DEEP_PAYS * _rounds(programs, 3) else SHALLOW
    elif rows <= _MOST_ROWS:
        alone, large = (outputs / each.outputs / _PROCESSORS for each in (ALONE, LARGE))
        if _LEAST_FILL[0] <= alone <= 1:  # a second round for a few would take as long as the first
            tiling = ALONE
        elif large >= _LEAST_FILL[1]:
            tiling = LARGE
        else:
            return None
    else:
        return None
    return tiling if divides(tiling, inputs, outputs) else None


def _rounds(programs: int, resident: int) -> int:
    """Rounds of programs, so many on a processor at a time, in the time that one alone would take."""
    return -(-programs // (_PROCESSORS * resident)) * resident


def divides(tiling: SkinnyTiling, inputs: int, outputs: int) -> bool:
    """Whether a product can be cut so."""
    return outputs % tiling.outputs == 0 and inputs % tiling.depth == 0 and inputs >= tiling.lines * LINE


def skinny_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None, tiling: SkinnyTiling, *, overlap_launch: bool
) -> Tensor:
    """``x @ weight.T + bias``, summed in float32.

    Between the products of a decode the memory idles: small kernels run there, and each kernel starts and ends. Weights
    depend on no kernel, so this one is launched early, has the L2 cache fetch the first of them, and waits for ``x``
    then.

    Args:
        x: (..., inputs) half precision, rows one behind the other.
        weight: (outputs, inputs) of the same dtype; its rows too.
        bias: (outputs,) or None.
        tiling: Its outputs and its depth divide those of the weight, its lines lie within an output's.
        overlap_launch: Whether the kernel may be launched while the one before it ends.

    Returns:
        (..., outputs).

    Raises:
        ValueError: The product cannot be cut so.
    """
    outputs, inputs = weight.shape
    if not divides(tiling, inputs, outputs):
        raise ValueError(f"a product of {inputs} inputs and {outputs} outputs cannot be cut by {tiling}")
    out = x.new_empty(*x.shape[:-1], outputs)
    rows = x.numel() // inputs
    _skinny[(outputs // tiling.outputs,)](
        x,
        weight,
        weight if bias is None else bias,
        out,
        rows,
        outputs,
        INPUTS=inputs,
        ROWS=max(_LEAST_ROWS, power_of_2(rows)),
        OUTPUTS=tiling.outputs,
        DEPTH=tiling.depth,
        LINES=tiling.lines if overlap_launch else 0,
        LINE=LINE,
        BIAS=bias is not None,
        PDL=overlap_launch,
        num_warps=tiling.warps,
        num_stages=tiling.stages,
        **overlap(overlap_launch),
    )
    return out


@direct
@triton.jit(do_not_specialize=["rows"])  # else 1, multiples of 16 and others are compiled apart
def _skinny(
    x,
    weight,
    bias,
    out,
    rows,
    outputs,
    INPUTS: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    DEPTH: tl.constexpr,
    LINES: tl.constexpr,
    LINE: tl.constexpr,
    BIAS: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    output = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    row = tl.arange(0, ROWS)
    inner = tl.arange(0, DEPTH)
    weights_at = weight + output[:, None].to(tl.int64) * INPUTS
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        if LINES > 0:
            # Weights alone, and no further than the L2 cache, which sees every write: before the wait nothing else
            # may be read, and nothing written.
            fetch_lines(weights_at + (tl.arange(0, LINES) * LINE)[None, :])
        tl.extra.cuda.gdc_wait()
    weights_at += inner[None, :]
    there = (row < rows)[:, None]
    inputs_at = x + row[:, None] * INPUTS + inner[None, :]
    product = tl.zeros([OUTPUTS, ROWS], tl.float32)
    for start in range(0, INPUTS, DEPTH):
        weights = tl.load(weights_at + start)
        inputs = tl.load(inputs_at + start, mask=there, other=0.0)
        product = tl.dot(weights, tl.trans(inputs), product)
    if BIAS:
        product += tl.load(bias + output).to(tl.float32)[:, None]
    to = out + row[None, :] * outputs + output[:, None]
    tl.store(to, product.to(out.dtype.element_ty), mask=tl.trans(there))


@triton.jit
def fetch_lines(addresses) -> None:
    """Have the L2 cache fetch the lines of these addresses, and wait for none."""
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.u32 $0, 0;",
        "=r,l",
        [addresses.to(tl.int64)],
        dtype=tl.int32,
        is_pure=False,
        pack=1,
    )

"""Matrix products of few rows, which fetch weights while the kernel before them ends."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
# ruff: noqa: N803 (compile-time constants of a kernel are written in capitals)

from __future__ import annotations

from typing import NamedTuple

import triton  # comes with the CUDA builds of torch alone
import triton.language as tl
from torch import Tensor

from runtime.kernels.launch import overlap

_LEAST_ROWS = 16  # of a matrix instruction; fewer are padded
_LINE = 64  # numbers of 16 bits of a cache line


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


TILING = SkinnyTiling(outputs=16, depth=256, warps=1, stages=5, lines=16)
"""The best of seven for Qwen3-8B on an H100: many small programs share the memory evenly to the end, and start as soon
as one of the kernel before leaves. More lines fetched early delay those whose turn it is."""

_MOST_ROWS = 16  # a second tile of rows would read the activations as often as the weights
_FEWEST_PROGRAMS = 256  # some two for each multiprocessor of an H100
_MOST_INPUTS = 2  # for each output: a longer sum wants to be cut, as cuBLAS does and this kernel does not


def skinny_tiling(rows: int, inputs: int, outputs: int) -> SkinnyTiling | None:
    """How to cut a product that is faster so than by cuBLAS; None where it is not, or does not divide.

    Measured on Qwen3-8B at 1 and 16 rows, with the kernel before: queries, keys and values, 1.11 to 1.14 times as fast;
    attention's output 1.05; gate and up 1.07; down, three times as many inputs as outputs, 0.98.
    """
    tiling = TILING
    divides = outputs % tiling.outputs == 0 and inputs % tiling.depth == 0 and inputs >= tiling.lines * _LINE
    filled = outputs >= _FEWEST_PROGRAMS * tiling.outputs
    return tiling if divides and filled and rows <= _MOST_ROWS and inputs <= _MOST_INPUTS * outputs else None


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
    if outputs % tiling.outputs or inputs % tiling.depth or tiling.lines * _LINE > inputs:
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
        ROWS=max(_LEAST_ROWS, triton.next_power_of_2(rows)),
        OUTPUTS=tiling.outputs,
        DEPTH=tiling.depth,
        LINES=tiling.lines if overlap_launch else 0,
        LINE=_LINE,
        BIAS=bias is not None,
        PDL=overlap_launch,
        num_warps=tiling.warps,
        num_stages=tiling.stages,
        **overlap(overlap_launch),
    )
    return out


@triton.jit
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

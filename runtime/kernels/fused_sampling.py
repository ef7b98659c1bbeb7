"""Drawing from a softmax in Triton: one pass over the scores, :mod:`runtime.kernels.gumbel`'s noise made on the way."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
# ruff: noqa: N803 (compile-time constants of a kernel are written in capitals)

from __future__ import annotations

import torch
import triton  # comes with the CUDA builds of torch alone
import triton.language as tl
from torch import Tensor

from runtime.kernels.direct import direct, power_of_2

_BLOCK = 1024  # scores that a program looks at together
_BLOCKS = 4  # that it looks at in turn: a row of 151,936 scores makes 38 programs


def fused_gumbel_argmax(scores: Tensor, temperature: Tensor, keys: Tensor) -> Tensor:
    """:func:`runtime.kernels.gumbel.gumbel_argmax`: the same draws, up to scores that tie in float32.

    Args:
        scores: (rows, vocab_size), each row's scores side by side.
        temperature: (rows,) float32; 0 for the likeliest token.
        keys: (rows, 2) int32 bits.

    Returns:
        (rows,) int64.
    """
    rows, width = scores.shape
    parts = -(-width // (_BLOCK * _BLOCKS))
    best = torch.empty(rows, parts, dtype=torch.float32, device=scores.device)
    tokens = torch.empty(rows, parts, dtype=torch.int32, device=scores.device)
    _best_of_part[(rows, parts)](
        scores, temperature, keys, best, tokens, width, scores.stride(0), BLOCK=_BLOCK, BLOCKS=_BLOCKS, num_warps=4
    )
    chosen = torch.empty(rows, dtype=torch.int64, device=scores.device)
    _best_of_row[(rows,)](best, tokens, chosen, parts, width, PARTS=power_of_2(parts), num_warps=1)
    return chosen


@direct
@triton.jit(do_not_specialize_on_alignment=["keys"])  # they stand behind others, of any number
def _best_of_part(
    scores, temperature, keys, best, tokens, width, stride, BLOCK: tl.constexpr, BLOCKS: tl.constexpr
) -> None:
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    heat = tl.load(temperature + row)
    key_0 = tl.load(keys + 2 * row).to(tl.uint32, bitcast=True)
    key_1 = tl.load(keys + 2 * row + 1).to(tl.uint32, bitcast=True)
    top = tl.full((BLOCK,), float("-inf"), tl.float32)
    at = tl.zeros((BLOCK,), tl.int32)
    for block in range(BLOCKS):
        column = (part * BLOCKS + block) * BLOCK + tl.arange(0, BLOCK)
        value = tl.load(scores + row * stride + column, mask=column < width, other=float("-inf")).to(tl.float32)
        if heat > 0.0:
            value = tl.div_rn(value, heat) + _gumbel(column.to(tl.uint32), key_0, key_1)
        better = value > top
        top = tl.where(better, value, top)
        at = tl.where(better, column, at)
    highest = tl.max(top, axis=0)
    # Of equals the first, as the reference has it.
    first = tl.min(tl.where(top == highest, at, width), axis=0)
    to = row * tl.num_programs(1) + part
    tl.store(best + to, highest)
    tl.store(tokens + to, first)


@direct
@triton.jit
def _best_of_row(best, tokens, chosen, parts, width, PARTS: tl.constexpr) -> None:
    row = tl.program_id(0).to(tl.int64)
    part = tl.arange(0, PARTS)
    value = tl.load(best + row * parts + part, mask=part < parts, other=float("-inf"))
    token = tl.load(tokens + row * parts + part, mask=part < parts, other=width)
    first = tl.min(tl.where(value == tl.max(value, axis=0), token, width), axis=0)
    tl.store(chosen + row, tl.minimum(first, width - 1).to(tl.int64))


@triton.jit
def _gumbel(column, key_0, key_1):
    bits = _mix32(_mix32(column * 0x9E3779B9 + key_0) ^ key_1)
    uniform = tl.minimum((bits.to(tl.float32) + 0.5) * 2.3283064365386963e-10, 0.99999994039535522)
    # -log(1 - uniform); near 0 by its series, for 1 - uniform is coarse there.
    series = uniform * (1.0 + uniform * (0.5 + uniform * (1.0 / 3.0)))
    return -tl.log(tl.where(uniform < 0.0078125, series, -tl.log(1.0 - uniform)))


@triton.jit
def _mix32(x):
    x = (x ^ (x >> 16)) * 0x7FEB352D
    x = (x ^ (x >> 15)) * 0x846CA68B
    return x ^ (x >> 16)

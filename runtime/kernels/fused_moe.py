"""A mixture of experts in Triton: tokens sorted by expert on the device, then one product for all experts.

Nothing waits for the host and the grids depend on the number of tokens alone, so that a step can be captured in a CUDA
graph. There are no atomic additions: the same step gives the same bits.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
# ruff: noqa: N803 (compile-time constants of a kernel are written in capitals)

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import triton  # comes with the CUDA builds of torch alone
import triton.language as tl
from torch import Tensor

from runtime.kernels.base import Weight
from runtime.kernels.direct import direct, power_of_2
from runtime.kernels.fused_fp8 import quantize_rows
from runtime.kernels.launch import overlap

_SORTED = 1024  # assignments that a program looks at at once
_COMBINED = 1024  # columns of a token that a program sums up


class GroupedTiling(NamedTuple):
    """What one program of the product computes.

    Attributes:
        rows: Assignments of one expert.
        columns: Of its outputs.
        depth: Inputs that it reads at once.
        warps: Its threads, by 32.
        stages: Depth of the software pipeline.
    """

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int


# By assignments to an expert, on average, up to which each is taken; a tile of many rows is wasted on few.
TILINGS = (
    (8.0, GroupedTiling(16, 64, 128, 4, 4)),
    (32.0, GroupedTiling(32, 64, 128, 4, 4)),
    (128.0, GroupedTiling(64, 128, 64, 4, 4)),
    (float("inf"), GroupedTiling(128, 128, 64, 8, 3)),
)


class Sorted(NamedTuple):
    """Assignments by expert, each expert's padded to whole blocks.

    An assignment is a token's to one of its experts: number ``token * chosen + choice``.

    Attributes:
        order: (blocks * rows,) int32: assignments, or their number where there is none.
        experts: (blocks,) int32: whose each block is.
        used: (1,) int32: how many blocks there are; those behind them mean nothing.
    """

    order: Tensor
    experts: Tensor
    used: Tensor


def route(scores: Tensor, chosen: int, *, normalise: bool, overlap_launch: bool) -> tuple[Tensor, Tensor]:
    """See :meth:`runtime.kernels.Kernels.route`; of equals the first is chosen."""
    tokens, experts = scores.shape
    ids = torch.empty((tokens, chosen), dtype=torch.int32, device=scores.device)
    weights = torch.empty((tokens, chosen), dtype=torch.float32, device=scores.device)
    _route[(tokens,)](
        scores,
        ids,
        weights,
        EXPERTS=experts,
        BLOCK=power_of_2(experts),
        CHOSEN=chosen,
        SLOTS=power_of_2(chosen),
        NORMALISE=normalise,
        PDL=overlap_launch,
        num_warps=1,
        **overlap(overlap_launch),
    )
    return ids, weights


def sort_by_expert(experts: Tensor, count: int, rows: int, *, overlap_launch: bool) -> Sorted:
    """Put assignments into blocks, each of one expert, in the order of experts and within it of assignments.

    Args:
        experts: (tokens, chosen) int32.
        count: Experts that there are.
        rows: Assignments in a block.
        overlap_launch: Whether the kernel may be launched while the one before it ends.
    """
    assignments = experts.numel()
    # Each expert that is chosen wastes less than a block.
    blocks = assignments // rows + min(count, assignments)
    order, block_experts, used = (
        torch.empty(size, dtype=torch.int32, device=experts.device) for size in (blocks * rows, blocks, 1)
    )
    _sort_by_expert[(count,)](
        experts,
        order,
        block_experts,
        used,
        assignments,
        BINS=power_of_2(count),
        ROWS=rows,
        BLOCK=_SORTED,
        PDL=overlap_launch,
        num_warps=4,
        **overlap(overlap_launch),
    )
    return Sorted(order, block_experts, used)


def experts_sum(
    x: Tensor,
    experts: Tensor,
    weights: Tensor,
    gate_up: Weight,
    down: Weight,
    *,
    silu_and_mul: Callable[[Tensor], Tensor],
    overlap_launch: bool,
) -> Tensor:
    """See :meth:`runtime.kernels.Kernels.experts`.

    Args:
        x: (tokens, hidden_size).
        experts: (tokens, chosen) int32.
        weights: (tokens, chosen) float32.
        gate_up: (experts, 2 * width, hidden_size).
        down: (experts, hidden_size, width).
        silu_and_mul: The kernel between the products.
        overlap_launch: Whether kernels may be launched while the ones before them end.
    """
    (tokens, hidden), chosen, count = x.shape, experts.shape[1], len(down.values)
    tiling = next(tiling for most, tiling in TILINGS if experts.numel() <= most * count)
    work = sort_by_expert(experts, count, tiling.rows, overlap_launch=overlap_launch)
    inner = grouped_product(x, gate_up, work, experts.numel(), chosen, tiling, overlap_launch=overlap_launch)
    outer = grouped_product(silu_and_mul(inner), down, work, experts.numel(), 1, tiling, overlap_launch=overlap_launch)
    out = torch.empty_like(x)
    _combine[(tokens, -(-hidden // _COMBINED))](
        outer,
        weights,
        out,
        WIDTH=hidden,
        CHOSEN=chosen,
        BLOCK=_COMBINED,
        PDL=overlap_launch,
        num_warps=4,
        **overlap(overlap_launch),
    )
    return out


def grouped_product(
    x: Tensor,
    weight: Weight,
    work: Sorted,
    assignments: int,
    shared: int,
    tiling: GroupedTiling,
    *,
    overlap_launch: bool,
) -> Tensor:
    """Each assignment's row times its expert's matrix.

    Args:
        x: (assignments / shared, inputs).
        weight: (experts, outputs, inputs).
        work: Assignments by expert, in blocks of ``tiling.rows``.
        assignments: How many.
        shared: Assignments, one behind the other, that have their row in common.
        tiling: Of the work.
        overlap_launch: Whether kernels may be launched while the ones before them end.

    Returns:
        (assignments, outputs) of ``x``'s dtype.
    """
    _, outputs, inputs = weight.values.shape
    out = torch.empty((assignments, outputs), dtype=x.dtype, device=x.device)
    scaled = weight.scales is not None
    row_scales = out
    if scaled:
        x, row_scales = quantize_rows(x, overlap_launch=overlap_launch)
    _grouped_product[(-(-outputs // tiling.columns), len(work.experts))](
        x,
        row_scales,
        weight.values,
        out if weight.scales is None else weight.scales,
        out,
        work.order,
        work.experts,
        work.used,
        assignments,
        SHARED=shared,
        INPUTS=inputs,
        OUTPUTS=outputs,
        ROWS=tiling.rows,
        COLUMNS=tiling.columns,
        DEPTH=tiling.depth,
        SCALED=scaled,
        PDL=overlap_launch,
        num_warps=tiling.warps,
        num_stages=tiling.stages,
        **overlap(overlap_launch),
    )
    return out


@direct
@triton.jit
def _route(
    scores,
    ids,
    weights,
    EXPERTS: tl.constexpr,
    BLOCK: tl.constexpr,
    CHOSEN: tl.constexpr,
    SLOTS: tl.constexpr,
    NORMALISE: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    token = tl.program_id(0).to(tl.int64)
    expert = tl.arange(0, BLOCK)
    slot = tl.arange(0, SLOTS)
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    score = tl.load(scores + token * EXPERTS + expert, mask=expert < EXPERTS, other=float("-inf")).to(tl.float32)
    power = tl.exp(score - tl.max(score, axis=0))
    left = tl.where(expert < EXPERTS, power / tl.sum(power, axis=0), -1.0)
    best = tl.zeros([SLOTS], tl.int32)
    weight = tl.zeros([SLOTS], tl.float32)
    for choice in tl.static_range(CHOSEN):
        likeliest = tl.argmax(left, axis=0, tie_break_left=True)
        best = tl.where(slot == choice, likeliest, best)
        weight = tl.where(slot == choice, tl.max(left, axis=0), weight)
        left = tl.where(expert == likeliest, -1.0, left)
    if NORMALISE:
        weight /= tl.sum(weight, axis=0)
    tl.store(ids + token * CHOSEN + slot, best, mask=slot < CHOSEN)
    tl.store(weights + token * CHOSEN + slot, weight, mask=slot < CHOSEN)


@direct
@triton.jit(do_not_specialize=["assignments"])  # else multiples of 16 and others are compiled apart
def _sort_by_expert(
    experts,
    order,
    block_experts,
    used,
    assignments,
    BINS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    """A program an expert: it counts all of them, and so knows where its own assignments go."""
    mine = tl.program_id(0)
    expert = tl.arange(0, BINS)
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    counts = tl.zeros([BINS], tl.int32)
    for start in range(0, assignments, BLOCK):
        assignment = start + tl.arange(0, BLOCK)
        there = assignment < assignments
        counts += tl.histogram(tl.load(experts + assignment, mask=there, other=0), BINS, mask=there)
    blocks = (counts + ROWS - 1) // ROWS
    first_block = tl.sum(tl.where(expert < mine, blocks, 0), axis=0)
    my_blocks = tl.sum(tl.where(expert == mine, blocks, 0), axis=0)
    if mine == 0:
        tl.store(used, tl.sum(blocks, axis=0))
    first = first_block * ROWS
    placed = first
    for start in range(0, assignments, BLOCK):
        assignment = start + tl.arange(0, BLOCK)
        there = assignment < assignments
        chosen = (tl.load(experts + assignment, mask=there, other=-1) == mine).to(tl.int32)
        tl.store(order + placed + tl.cumsum(chosen, axis=0) - 1, assignment, mask=chosen == 1)
        placed += tl.sum(chosen, axis=0)
    padding = placed + tl.arange(0, ROWS)
    tl.store(order + padding, tl.zeros([ROWS], tl.int32) + assignments, mask=padding < first + my_blocks * ROWS)
    for start in range(0, my_blocks, 32):
        block = start + tl.arange(0, 32)
        tl.store(block_experts + first_block + block, tl.zeros([32], tl.int32) + mine, mask=block < my_blocks)


@direct
@triton.jit(do_not_specialize=["assignments"])  # else multiples of 16 and others are compiled apart
def _grouped_product(
    x,
    row_scales,
    values,
    scales,
    out,
    order,
    block_experts,
    used,
    assignments,
    SHARED: tl.constexpr,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPTH: tl.constexpr,
    SCALED: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    block = tl.program_id(1)
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    if block >= tl.load(used):
        return
    expert = tl.load(block_experts + block).to(tl.int64)
    assignment = tl.load(order + block * ROWS + tl.arange(0, ROWS))
    there = assignment < assignments
    row = (assignment // SHARED).to(tl.int64)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    inside = column < OUTPUTS
    inner = tl.arange(0, DEPTH)
    x_at = x + row[:, None] * INPUTS + inner[None, :]
    values_at = values + expert * (OUTPUTS * INPUTS) + column[:, None] * INPUTS + inner[None, :]
    product = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(0, INPUTS, DEPTH):
        if INPUTS % DEPTH == 0:
            left = tl.load(x_at + start, mask=there[:, None], other=0.0)
            right = tl.load(values_at + start, mask=inside[:, None], other=0.0)
        else:
            rest = (inner < INPUTS - start)[None, :]
            left = tl.load(x_at + start, mask=there[:, None] & rest, other=0.0)
            right = tl.load(values_at + start, mask=inside[:, None] & rest, other=0.0)
        product = tl.dot(left, tl.trans(right), product)
    if SCALED:
        row_scale = tl.load(row_scales + row, mask=there, other=0.0)
        scale = tl.load(scales + expert * OUTPUTS + column, mask=inside, other=0.0)
        product = product * row_scale[:, None] * scale[None, :]
    to = out + assignment.to(tl.int64)[:, None] * OUTPUTS + column[None, :]
    tl.store(to, product.to(out.dtype.element_ty), mask=there[:, None] & inside[None, :])


@direct
@triton.jit
def _combine(
    rows, weights, out, WIDTH: tl.constexpr, CHOSEN: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr
) -> None:
    token = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < WIDTH
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    total = tl.zeros([BLOCK], tl.float32)
    for choice in tl.static_range(CHOSEN):
        at = token * CHOSEN + choice
        row = tl.load(rows + at * WIDTH + column, mask=inside, other=0.0).to(tl.float32)
        total += tl.load(weights + at) * row
    tl.store(out + token * WIDTH + column, total.to(out.dtype.element_ty), mask=inside)

"""The sum over ranks, added to the residual stream and normalised, in one kernel over memory that all ranks reach.

In the manner of TensorRT-LLM's fused all-reduce (``allReduceFusionKernels.cu``, which FlashInfer has too; the style of
message is named after Lamport there): a rank writes its rows into the inboxes of the ranks that sum them. There is no
flag and no barrier: an inbox is filled with a number that no row holds (-0.0; rows send +0.0 in its place), and who
waits for a row looks until none of its numbers is that one, so that the order in which writes arrive does not matter.

One-shot: every rank gets every row of every rank and sums them itself. One hop; for few tokens.

Two-shot: of each group of as many rows as ranks, every rank owns one. It gets that row from all, sums it, keeps the
residual stream of it (the same rank owns the row in the step's next reduction, so nobody else need know it), and sends
it, normalised, to all. Two hops; per rank a size-th of the sums, and for four ranks half of one-shot's traffic.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
# ruff: noqa: N803 (compile-time constants of a kernel are written in capitals)

from __future__ import annotations

from typing import NamedTuple

import torch
import triton  # comes with the CUDA builds of torch alone
import triton.language as tl
from torch import Tensor

from runtime.kernels.direct import direct, power_of_2
from runtime.kernels.launch import overlap, row_warps

_PROGRAMS = {2: 256, 4: 128, 8: 128}
"""At most, by ranks, so that all find room on a GPU of 132 processors: of those for two ranks two fit on each. Each of
them sends all its rows before it waits for any."""

# There is no deadlock. A program waits for rows of its own number alone, which the programs of that number send on the
# other ranks before they wait. Where not all find room, programs start in the order of their numbers, on all ranks.
# Launched early, the kernel first waits for the one before it. The one behind it is launched when all its programs
# run, and takes no room from them.

EMPTY = -(1 << 15)
"""What an inbox is filled with before anything comes: the bits of -0.0 in bfloat16 and in float16."""

TURNS = 3
"""Parts of an inbox, taken by a row's reductions in turn."""

# Why no rank writes where another still reads, or has not yet cleared. Let a rank be at a row's reduction number n.
# - No sum is made without a row of every rank. So a rank is through with n + 1 only when all ranks have sent theirs, in
#   the kernel of n + 1. Until this rank does so, the others write its parts n and n + 1, and not yet part n + 2.
# - So part n + 2, the same as n - 1, which this rank read in an earlier kernel, is its own now, and it clears it: that
#   is done when the kernel of n ends, which is before the kernel of n + 1 sends.
# A row counts its reductions by itself (a group of rows in two-shot), on the device: steps of any size, in CUDA graphs
# or not, follow each other as they come, as long as all ranks run the same. Rows of one inbox are of one width.

_EMPTY = tl.constexpr(EMPTY)
_TURNS = tl.constexpr(TURNS)


class Inbox(NamedTuple):
    """Where rows come in, on every rank: memory of int16 that all ranks write, :data:`EMPTY` at first.

    Attributes:
        rank: This one.
        addresses: (ranks,) int64: of each rank's memory, which begins at a multiple of 16 bytes; the ranks are 2, 4 or
            8. It holds :func:`one_shot_numbers` or :func:`two_shot_numbers`.
        turns: (tokens,) int32 for one-shot, (groups,) for two-shot, zeros at first: the part that is next.
    """

    rank: int
    addresses: Tensor
    turns: Tensor


def one_shot_numbers(tokens: int, ranks: int, width: int) -> int:
    """Numbers of an inbox for so many tokens: of each, every rank's row."""
    return TURNS * tokens * ranks * width


def two_shot_groups(tokens: int, ranks: int) -> int:
    """Groups of so many tokens."""
    return -(-tokens // ranks)


def two_shot_numbers(tokens: int, ranks: int, width: int) -> int:
    """Numbers of an inbox for so many tokens: of each group, every rank's part of the row owned, and all rows' sums."""
    return TURNS * 2 * two_shot_groups(tokens, ranks) * ranks * width


def one_shot(
    part: Tensor, residual: Tensor | None, weight: Tensor, eps: float, inbox: Inbox, *, overlap_launch: bool
) -> tuple[Tensor, Tensor]:
    """Sum rows over ranks, add them to the residual stream, normalise: the same bits on all ranks.

    Args:
        part: (tokens, width) half precision, rows one behind the other: this rank's; overwritten.
        residual: The same: the stream so far, overwritten; None where the sum begins it.
        weight: (width,) of the norm.
        eps: Added to the mean square.
        inbox: Of at least so many tokens, for rows of that width.
        overlap_launch: Whether the kernel may be launched while the one before it ends.

    Returns:
        The normalised stream, and the stream, both (tokens, width).

    Raises:
        ValueError: There are more tokens than the inbox is for.
    """
    return _launch(_one_shot, len(part), part, residual, weight, eps, inbox, overlap_launch)


def two_shot(
    part: Tensor, residual: Tensor | None, weight: Tensor, eps: float, inbox: Inbox, *, overlap_launch: bool
) -> tuple[Tensor, Tensor]:
    """What :func:`one_shot` does, but this rank's rows alone of the stream count, in and out: every ``ranks``-th."""
    groups = two_shot_groups(len(part), len(inbox.addresses))
    return _launch(_two_shot, groups, part, residual, weight, eps, inbox, overlap_launch)


def _launch(
    kernel, pieces: int, part: Tensor, residual: Tensor | None, weight: Tensor, eps: float, inbox: Inbox, pdl: bool
) -> tuple[Tensor, Tensor]:
    tokens, width = part.shape
    if pieces > len(inbox.turns):
        raise ValueError(f"{tokens} rows: too many for an inbox of {len(inbox.turns)} rows or groups of rows")
    ranks = len(inbox.addresses)
    stream = torch.empty_like(part) if residual is None else residual
    block = power_of_2(width)
    kernel[(max(min(pieces, _PROGRAMS[ranks]), 1),)](
        part,
        stream,
        weight,
        inbox.addresses,
        inbox.turns,
        tokens,
        inbox.rank,
        len(inbox.turns),
        eps,
        RANKS=ranks,
        WIDTH=width,
        BLOCK=block,
        ADD=residual is not None,
        PDL=pdl,
        num_warps=row_warps(block),
        **overlap(pdl),
    )
    return part, stream


@direct
@triton.jit(do_not_specialize=["tokens", "rank", "pieces"])
def _one_shot(
    part,
    residual,
    weight,
    inboxes,
    turns,
    tokens,
    rank,
    pieces,
    eps,
    RANKS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    ADD: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    column = tl.arange(0, BLOCK)
    there = column < WIDTH
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    mine = _inbox(inboxes, rank)
    for row in range(tl.program_id(0), tokens, tl.num_programs(0)):
        line = (tl.load(turns + row) * pieces + row) * RANKS + rank
        bits = _to_send(tl.load(part + row * WIDTH + column, mask=there, other=0.0))
        for step in tl.static_range(RANKS):
            tl.store(_inbox(inboxes, (rank + step) % RANKS) + line * WIDTH + column, bits, mask=there)
    for row in range(tl.program_id(0), tokens, tl.num_programs(0)):
        turn = tl.load(turns + row)
        _clear(mine + ((turn + 2) % _TURNS * pieces + row) * RANKS * WIDTH, column, there, RANKS, WIDTH)
        lines = mine + (turn * pieces + row) * RANKS * WIDTH
        normed = _sum_and_norm(lines, residual + row * WIDTH, weight, eps, column, there, RANKS, WIDTH, ADD)
        tl.store(part + row * WIDTH + column, normed, mask=there)
        tl.store(turns + row, (turn + 1) % _TURNS)


@direct
@triton.jit(do_not_specialize=["tokens", "rank", "pieces"])
def _two_shot(
    part,
    residual,
    weight,
    inboxes,
    turns,
    tokens,
    rank,
    pieces,
    eps,
    RANKS: tl.constexpr,
    WIDTH: tl.constexpr,
    BLOCK: tl.constexpr,
    ADD: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    column = tl.arange(0, BLOCK)
    there = column < WIDTH
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    mine = _inbox(inboxes, rank)
    groups = tl.cdiv(tokens, RANKS)
    member = tl.arange(0, RANKS)[:, None]
    owners = tl.multiple_of(tl.load(inboxes + member).to(tl.pointer_type(tl.int16)), [16, 16])
    rows = member * WIDTH + column[None, :]
    # A turn holds the parts that come to owners, then the normalised rows that come from them.
    for group in range(tl.program_id(0), groups, tl.num_programs(0)):
        line = (2 * tl.load(turns + group) * pieces + group) * RANKS + rank
        here = there[None, :] & (group * RANKS + member < tokens)
        bits = _to_send(tl.load(part + group * RANKS * WIDTH + rows, mask=here, other=0.0))
        tl.store(owners + (line * WIDTH + column)[None, :], bits, mask=here)
    for group in range(tl.program_id(0), groups, tl.num_programs(0)):
        row = group * RANKS + rank
        if row < tokens:
            piece = 2 * tl.load(turns + group) * pieces + group
            lines = mine + piece * RANKS * WIDTH
            normed = _sum_and_norm(lines, residual + row * WIDTH, weight, eps, column, there, RANKS, WIDTH, ADD)
            bits = _to_send(normed)
            line = (piece + pieces) * RANKS + rank
            for step in tl.static_range(RANKS):
                tl.store(_inbox(inboxes, (rank + step) % RANKS) + line * WIDTH + column, bits, mask=there)
    for group in range(tl.program_id(0), groups, tl.num_programs(0)):
        turn = tl.load(turns + group)
        free = mine + (2 * ((turn + 2) % _TURNS) * pieces + group) * RANKS * WIDTH
        _clear(free, column, there, RANKS, WIDTH)
        _clear(free + pieces * RANKS * WIDTH, column, there, RANKS, WIDTH)
        here = there[None, :] & (group * RANKS + member < tokens)
        lines = mine + ((2 * turn + 1) * pieces + group) * RANKS * WIDTH + rows
        least = _EMPTY
        while least == _EMPTY:
            least = tl.min(tl.min(_look(lines, here), axis=0), axis=0).to(tl.int32)
        bits = _look(lines, here).to(part.dtype.element_ty, bitcast=True)
        tl.store(part + group * RANKS * WIDTH + rows, bits, mask=here)
        tl.store(turns + group, (turn + 1) % _TURNS)


@triton.jit
def _sum_and_norm(
    lines, residual, weight, eps, column, there, RANKS: tl.constexpr, WIDTH: tl.constexpr, ADD: tl.constexpr
):
    """Sum all ranks' lines in float32, in the order of ranks, add them to a row of the stream, and normalise it."""
    # What is here already is asked for before the wait.
    scale = tl.load(weight + column, mask=there, other=0.0).to(tl.float32)
    stream = tl.zeros_like(scale)
    if ADD:
        stream = tl.load(residual + column, mask=there, other=0.0).to(tl.float32)
    dtype = residual.dtype.element_ty
    total = tl.zeros_like(scale)
    least = _EMPTY
    while least == _EMPTY:
        total = tl.zeros_like(scale)
        bits = tl.zeros_like(scale).to(tl.int16)
        for rank in tl.static_range(RANKS):
            came = _look(lines + rank * WIDTH + column, there)
            bits = tl.minimum(bits, came)
            total += came.to(dtype, bitcast=True).to(tl.float32)
        least = tl.min(bits, axis=0).to(tl.int32)
    value = stream + total
    tl.store(residual + column, value.to(dtype), mask=there)
    return (value * tl.rsqrt(tl.sum(value * value, axis=0) / WIDTH + eps) * scale).to(dtype)


@triton.jit
def _inbox(inboxes, rank):
    """A rank's."""
    return tl.multiple_of(tl.load(inboxes + rank).to(tl.pointer_type(tl.int16)), 16)


@triton.jit
def _to_send(values):
    """The bits of half-precision numbers, none of which says that nothing has come."""
    bits = values.to(tl.int16, bitcast=True)
    return tl.where(bits == _EMPTY, 0, bits).to(tl.int16)


@triton.jit
def _look(at, there):
    """What is in an inbox now, and not what a processor has kept of it; 0 elsewhere."""
    return tl.load(at, mask=there, other=0, volatile=True)


@triton.jit
def _clear(lines, column, there, RANKS: tl.constexpr, WIDTH: tl.constexpr):
    """Have nothing in as many lines as there are ranks."""
    nothing = tl.full(column.shape, _EMPTY, tl.int16)
    for line in tl.static_range(RANKS):
        tl.store(lines + line * WIDTH + column, nothing, mask=there)

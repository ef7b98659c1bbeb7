"""A decode's attention in one kernel: heads rotated, the token's KV stored, the KV before it read, its parts merged.

In a small step the start and the end of each kernel cost more than its work. As in Flash-Decoding a program takes a
part of a sequence's KV; it turns the queries itself, and the last one to end merges the parts.
"""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators
# ruff: noqa: N803 (compile-time constants of a kernel are written in capitals)

from __future__ import annotations

from typing import NamedTuple

import torch
import triton  # comes with the CUDA builds of torch alone
import triton.language as tl
from torch import Tensor

from runtime.kernels.base import HeadNorms
from runtime.kernels.direct import direct, power_of_2
from runtime.kernels.launch import overlap
from runtime.kernels.paged_attention import AttentionShape, AttentionTables
from runtime.kernels.skinny import LINE, fetch_lines

_LEAST_ROWS = 16  # of a matrix instruction; a smaller group of heads is padded
_MERGED_NUMBERS = 64  # that a thread merges at once


class FusedTiling(NamedTuple):
    """What one program works on.

    Attributes:
        tokens: KV that it multiplies at once, while it loads as much again; a power of two.
        fetched: Tokens behind the first of those that it has the L2 cache fetch early: 0, or a power of two.
        warps: Its threads, by 32.
    """

    tokens: int
    fetched: int
    warps: int


TILING, WIDE_TILING = FusedTiling(32, 32, 4), FusedTiling(16, 16, 4)
_WIDE_HEAD = 128  # beyond it so much KV would fill the registers


def fused_decode(
    qkv: Tensor,
    norms: HeadNorms | None,
    cos: Tensor,
    sin: Tensor,
    keys: Tensor,
    values: Tensor,
    slots: Tensor,
    tables: AttentionTables,
    items: int,
    arrived: Tensor,
    shape: AttentionShape,
    *,
    overlap_launch: bool,
) -> Tensor:
    """What ``Kernels.rotate_and_store`` does, and attention of one query a sequence behind it.

    Numbers are rounded where those are, and parts merged in their order: who comes last does not show.

    Args:
        qkv: (sequences, heads + 2 * KV heads, head_dim), contiguous, as it was projected.
        norms: Of query and key heads, or None.
        cos: (sequences, 1, head_dim / 2).
        sin: The same.
        keys: (slots, KV heads, head_dim): a layer's, fp8 (e4m3) where activations are not; the step's own are not there
            yet, and are attended to as they are before they are rounded to that.
        values: The same.
        slots: (sequences,) int64: where the step's go.
        tables: Items are parts of the KV, each sequence's in a row, the step's own token in the last. They, ``slots``
            and the KV of earlier tokens were there before the step's first kernel began.
        items: How many programs are launched a KV head; as many as there are items, or more.
        arrived: (sequences * KV heads,) int32 zeros at least, and zeros again afterwards.
        shape: Of all.
        overlap_launch: Whether the kernel may be launched while the one before it ends.

    Returns:
        (sequences, heads, head_dim).
    """
    tiling, heads = tiling_for(shape), shape.heads
    out = qkv.new_empty(len(qkv), heads, shape.head_dim)
    partial = qkv.new_empty((items, heads, shape.head_dim), dtype=torch.float32)
    weights = qkv.new_empty((items, heads), dtype=torch.float32)
    _fused_decode[(items, shape.kv_heads)](
        qkv,
        qkv if norms is None else norms.q,
        qkv if norms is None else norms.k,
        cos,
        sin,
        keys,
        values,
        slots,
        out,
        partial,
        weights,
        arrived,
        tables.limits,
        tables.lengths,
        tables.page_starts,
        tables.item_starts,
        tables.item_sequences,
        tables.item_parts,
        tables.pages,
        0.0 if norms is None else norms.eps,
        shape.head_dim**-0.5,
        **constants(shape, tiling, keys.element_size()),
        NORM=norms is not None,
        PDL=overlap_launch,
        num_warps=tiling.warps,
        num_stages=1,  # it loads ahead by itself
        **overlap(overlap_launch),
    )
    return out


def tiling_for(shape: AttentionShape) -> FusedTiling:
    """What a program works on."""
    return TILING if shape.head_dim <= _WIDE_HEAD else WIDE_TILING


def constants(shape: AttentionShape, tiling: FusedTiling, kv_bytes: int) -> dict[str, int]:
    """What the kernel is compiled for, where a number of KV has so many bytes."""
    block_d, group = (power_of_2(size) for size in (shape.head_dim, shape.group))
    return {
        "KV_HEADS": shape.kv_heads,
        "GROUP": shape.group,
        "HEAD_DIM": shape.head_dim,
        "BLOCK_D": block_d,
        "PAGE": shape.page_size,
        "ROWS": max(group, _LEAST_ROWS),
        "TOKENS": tiling.tokens,
        "FETCHED": tiling.fetched,
        "LINE": 2 * LINE // kv_bytes,
        "MERGED_HEADS": group,
        "MERGED": max(_MERGED_NUMBERS * 32 * tiling.warps // (group * block_d), 1),
    }


@direct
@triton.jit
def _fused_decode(
    qkv,
    q_weight,
    k_weight,
    cos,
    sin,
    keys,
    values,
    slots,
    out,
    partial,
    weights,
    arrived,
    limits,
    lengths,
    page_starts,
    item_starts,
    item_sequences,
    item_parts,
    pages,
    eps,
    scale,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PAGE: tl.constexpr,
    ROWS: tl.constexpr,
    TOKENS: tl.constexpr,
    FETCHED: tl.constexpr,
    LINE: tl.constexpr,
    MERGED_HEADS: tl.constexpr,
    MERGED: tl.constexpr,
    NORM: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    item = tl.program_id(0)
    kv_head = tl.program_id(1)
    # Before the wait the tables and the KV of earlier tokens are read: what was there when the step began (see
    # runtime.kernels.launch). Of this step's kernels only this one writes into this layer's KV, and the token that it
    # stores it does not read back.
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
    if item >= tl.load(limits):  # a graph launches as many as there may be; the first one has work, and waits
        return
    sequence = tl.load(item_sequences + item)
    part = tl.load(item_parts + item)
    first_item = tl.load(item_starts + sequence)
    parts = tl.load(item_starts + sequence + 1) - first_item
    chunk = tl.load(limits + 1)
    start = part * chunk
    stop = tl.minimum(start + chunk, tl.load(lengths + sequence) - 1)  # the step's own token comes from registers
    table = pages + tl.load(page_starts + sequence)
    slot = tl.load(slots + sequence)
    last = part == parts - 1
    kv_at, readable = _kv_tile(table, start, stop, kv_head, KV_HEADS, HEAD_DIM, BLOCK_D, PAGE, TOKENS)
    key, value = tl.load(keys + kv_at, mask=readable, other=0.0), tl.load(values + kv_at, mask=readable, other=0.0)
    column = tl.arange(0, BLOCK_D)
    if PDL:
        if FETCHED > 0:
            _fetch_kv(keys, values, table, start, stop, kv_head, KV_HEADS, HEAD_DIM, PAGE, TOKENS, FETCHED, LINE)
        if NORM:
            fetch_lines(q_weight + column)
            fetch_lines(k_weight + column)
        tl.extra.cuda.gdc_wait()

    # The token's key and value stand in every row, as each query does in one: threads hold the same parts of all.
    row = tl.arange(0, ROWS)
    in_group = row < GROUP
    inside = (column < HEAD_DIM)[None, :]
    heads_at = qkv + sequence * ((GROUP + 2) * KV_HEADS * HEAD_DIM)
    q_head, k_head = kv_head * GROUP + row, GROUP * KV_HEADS + kv_head + row * 0
    v_at = heads_at + ((k_head + KV_HEADS) * HEAD_DIM)[:, None] + column[None, :]
    cos += sequence * (HEAD_DIM // 2)
    sin += sequence * (HEAD_DIM // 2)
    q = _turned(heads_at, q_head, in_group[:, None], q_weight, cos, sin, eps, HEAD_DIM, BLOCK_D, NORM)
    new_key = _turned(heads_at, k_head, last, k_weight, cos, sin, eps, HEAD_DIM, BLOCK_D, NORM)
    new_value = tl.load(v_at, mask=inside & last, other=0.0)
    to = slot * (KV_HEADS * HEAD_DIM) + kv_head * HEAD_DIM + column[None, :] + (row * 0)[:, None]
    # What was rounded to fp8 is only stored. To compute with it, another layout would be made of its bytes, and there
    # ptxas (CUDA 12.8, 12.9) reads a register before it is written: every fourth number would be lost.
    stored = inside & last & (row == 0)[:, None]
    tl.store(keys + to, new_key.to(keys.dtype.element_ty), mask=stored)
    tl.store(values + to, new_value.to(values.dtype.element_ty), mask=stored)
    scale *= 1.4426950408889634  # powers of 2 are what the hardware has
    new_score = tl.where(last, tl.sum(q.to(tl.float32) * new_key.to(tl.float32), axis=1) * scale, float("-inf"))

    highest = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    mixed = tl.zeros([ROWS, BLOCK_D], tl.float32)
    for first in range(start, stop, TOKENS):
        kv_at, readable = _kv_tile(table, first + TOKENS, stop, kv_head, KV_HEADS, HEAD_DIM, BLOCK_D, PAGE, TOKENS)
        scores = tl.dot(q, tl.trans(key.to(q.dtype))) * scale
        key = tl.load(keys + kv_at, mask=readable, other=0.0)
        scores = tl.where((first + tl.arange(0, TOKENS) < stop)[None, :], scores, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, axis=1))
        shrunk = tl.exp2(highest - higher)
        weight = tl.exp2(scores - higher[:, None])
        total = total * shrunk + tl.sum(weight, axis=1)
        mixed = tl.dot(weight.to(q.dtype), value.to(q.dtype), mixed * shrunk[:, None])
        value = tl.load(values + kv_at, mask=readable, other=0.0)
        highest = higher
    higher = tl.maximum(highest, new_score)
    shrunk, new_weight = tl.exp2(highest - higher), tl.exp2(new_score - higher)
    total = total * shrunk + new_weight
    mixed = (mixed * shrunk[:, None] + new_weight[:, None] * new_value.to(tl.float32)) / total[:, None]

    whole = in_group[:, None] & inside
    first_out = out + sequence * (KV_HEADS * GROUP * HEAD_DIM) + column[None, :]
    if parts == 1:
        tl.store(first_out + (q_head * HEAD_DIM)[:, None], mixed.to(out.dtype.element_ty), mask=whole)
    else:
        part_at = item * (KV_HEADS * GROUP) + q_head
        tl.store(partial + (part_at * HEAD_DIM)[:, None] + column[None, :], mixed, mask=whole)
        tl.store(weights + part_at, higher + tl.log2(total), mask=in_group)
        # All threads' stores are before the barrier, and what is before it is seen by whoever sees this count.
        tl.debug_barrier()
        counter = arrived + sequence * KV_HEADS + kv_head
        if tl.atomic_add(counter, 1, sem="acq_rel", scope="gpu") == parts - 1:
            # Where heads are no power of two, the first stand in for more.
            group_head = kv_head * GROUP + tl.arange(0, MERGED_HEADS) % GROUP
            stop_item = first_item + parts
            merged = _merged(
                partial, weights, group_head, first_item, stop_item, KV_HEADS * GROUP, HEAD_DIM, BLOCK_D, MERGED
            )
            tl.store(first_out + (group_head * HEAD_DIM)[:, None], merged.to(out.dtype.element_ty), mask=inside)
            tl.store(counter, 0)


@triton.jit
def _turned(
    heads_at, head, there, weight, cos, sin, eps, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr, NORM: tl.constexpr
):
    """A token's heads, normalised and rotated: (heads,) which, to (heads, head_dim)."""
    half: tl.constexpr = HEAD_DIM // 2
    run: tl.constexpr = half & -half  # numbers that stay neighbours: compilers do not see it
    column = tl.arange(0, BLOCK_D)[None, :]
    left = column < half
    turn = tl.max_contiguous(tl.multiple_of(tl.where(left, column, column - half), [1, run]), [1, run])
    across = tl.max_contiguous(tl.multiple_of(tl.where(left, column + half, column - half), [1, run]), [1, run])
    inside = column < HEAD_DIM
    at = heads_at + (head * HEAD_DIM)[:, None]
    rows = (head * 0)[:, None]
    own = tl.load(at + column, mask=there & inside, other=0.0).to(tl.float32)
    other = tl.load(at + across, mask=there & inside, other=0.0).to(tl.float32)
    c = tl.load(cos + (rows + turn), mask=inside, other=0.0).to(tl.float32)
    s = tl.load(sin + (rows + turn), mask=inside, other=0.0).to(tl.float32)
    if NORM:
        own_weight = tl.load(weight + (rows + column), mask=inside, other=0.0).to(tl.float32)
        other_weight = tl.load(weight + (rows + across), mask=inside, other=0.0).to(tl.float32)
        scale = tl.rsqrt(tl.sum(own * own, axis=1) / HEAD_DIM + eps)[:, None]
        own = own * scale * own_weight
        other = other * scale * other_weight
    return (own * c + other * tl.where(left, -s, s)).to(at.dtype.element_ty)


@triton.jit
def _kv_tile(
    table,
    first,
    stop,
    kv_head,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PAGE: tl.constexpr,
    TOKENS: tl.constexpr,
):
    """Where the keys and values of positions from ``first`` stand, and which of them are before ``stop``."""
    column = tl.arange(0, BLOCK_D)[None, :]
    position = first + tl.arange(0, TOKENS)
    page = tl.load(table + position // PAGE, mask=position < stop, other=0)
    slot = page.to(tl.int64) * PAGE + position % PAGE
    at = (slot * (KV_HEADS * HEAD_DIM) + kv_head * HEAD_DIM)[:, None] + column
    return at, (position < stop)[:, None] & (column < HEAD_DIM)


@triton.jit
def _fetch_kv(
    keys,
    values,
    table,
    start,
    stop,
    kv_head,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    PAGE: tl.constexpr,
    TOKENS: tl.constexpr,
    FETCHED: tl.constexpr,
    LINE: tl.constexpr,
) -> None:
    """Have the L2 cache fetch what comes behind a part's first tile."""
    lines: tl.constexpr = triton.next_power_of_2(triton.cdiv(HEAD_DIM, LINE))
    position = start + TOKENS + tl.arange(0, FETCHED)
    position = tl.where(position < stop, position, start)  # where there is none, what is on its way
    page = tl.load(table + position // PAGE)
    slot = page.to(tl.int64) * PAGE + position % PAGE
    column = tl.minimum(tl.arange(0, lines) * LINE, HEAD_DIM - 1)[None, :]
    at = (slot * (KV_HEADS * HEAD_DIM) + kv_head * HEAD_DIM)[:, None] + column
    fetch_lines(keys + at)
    fetch_lines(values + at)


@triton.jit
def _merged(
    partial,
    weights,
    head,
    first,
    stop,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    MERGED: tl.constexpr,
):
    """The mean of some heads' parts, weighted by their sums of powers."""
    column = tl.arange(0, BLOCK_D)[None, None, :]
    highest = tl.full([head.shape[0]], float("-inf"), tl.float32)
    total = tl.zeros([head.shape[0]], tl.float32)
    mixed = tl.zeros([head.shape[0], BLOCK_D], tl.float32)
    for start in range(first, stop, MERGED):
        item = start + tl.arange(0, MERGED)[None, :]
        at = item * HEADS + head[:, None]
        # Other processors wrote them: they are to be read from the L2 cache.
        exponent = tl.load(weights + at, mask=item < stop, other=float("-inf"), cache_modifier=".cg")
        readable = (item < stop)[:, :, None] & (column < HEAD_DIM)
        part = tl.load(partial + (at * HEAD_DIM)[:, :, None] + column, mask=readable, other=0.0, cache_modifier=".cg")
        higher = tl.maximum(highest, tl.max(exponent, axis=1))
        shrunk = tl.exp2(highest - higher)
        weight = tl.exp2(exponent - higher[:, None])
        total = total * shrunk + tl.sum(weight, axis=1)
        mixed = mixed * shrunk[:, None] + tl.sum(weight[:, :, None] * part, axis=1)
        highest = higher
    return mixed / total[:, None]

"""Attention over paged KV in Triton: tiles of queries (FlashAttention-2, arXiv 2307.08691) over pages, decodes split.

A work item is a tile of a chunk's queries over all of their context, or a decode's query over a part of its context
(Flash-Decoding). The query heads that share a KV head stand in one tile, so that keys and values are read once.
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
from runtime.kernels.launch import overlap

SPLIT_TOKENS = 64  # decodes' KV is split into multiples of it
_WIDE_HEAD = 128  # beyond it a tile's sums fill the registers: less KV at once
_MERGED_ITEMS = 16


class Tiling(NamedTuple):
    """What one program works on.

    Attributes:
        rows: Queries times the heads of a group.
        tokens: KV that it reads at once.
        warps: Its threads, by 32.
        stages: Depth of the software pipeline; loads of pages and of KV on them share it.
    """

    rows: int
    tokens: int
    warps: int
    stages: int


PREFILL, WIDE_PREFILL = Tiling(128, 64, 8, 3), Tiling(128, 32, 8, 3)
DECODE, WIDE_DECODE = Tiling(16, 64, 4, 5), Tiling(16, 32, 4, 5)  # 16 rows are the least that tensor cores take


class AttentionShape(NamedTuple):
    """What kernels are compiled for.

    Attributes:
        heads: Query heads.
        kv_heads: KV heads, which divide them.
        head_dim: Width of a head.
        page_size: Tokens a page.
    """

    heads: int
    kv_heads: int
    head_dim: int
    page_size: int

    @property
    def group(self) -> int:
        """Query heads to a KV head."""
        return self.heads // self.kv_heads

    @property
    def prefill(self) -> Tiling:
        """Of a prefill."""
        return self._for_group(PREFILL if self.head_dim <= _WIDE_HEAD else WIDE_PREFILL)

    @property
    def decode(self) -> Tiling:
        """Of a decode."""
        return self._for_group(DECODE if self.head_dim <= _WIDE_HEAD else WIDE_DECODE)

    @property
    def tile_queries(self) -> int:
        """Queries of a prefill's tile."""
        return self.prefill.rows // self.group

    def _for_group(self, tiling: Tiling) -> Tiling:
        return tiling._replace(rows=max(tiling.rows, power_of_2(self.group)))


class AttentionTables(NamedTuple):
    """A step's work, int32 on the device.

    Attributes:
        limits: (2,) items, and tokens of KV in a decode's item.
        lengths: (sequences,) tokens that the last query of each attends to.
        query_starts: (sequences + 1,) where its queries begin, and the last one's end.
        page_starts: (sequences + 1,) where its pages begin in ``pages``.
        item_starts: (sequences + 1,) where its items begin, in a decode.
        item_sequences: (items,) whose each is.
        item_parts: (items,) which tile of the queries, or which part of the KV.
        pages: All sequences' pages.
    """

    limits: Tensor
    lengths: Tensor
    query_starts: Tensor
    page_starts: Tensor
    item_starts: Tensor
    item_sequences: Tensor
    item_parts: Tensor
    pages: Tensor


def prefill(
    q: Tensor, keys: Tensor, values: Tensor, out: Tensor, tables: AttentionTables, items: int, shape: AttentionShape
) -> None:
    """Causal attention of chunks.

    Args:
        q: (tokens, heads, head_dim), heads one behind the other.
        keys: (slots, KV heads, head_dim): a layer's, the step's own stored.
        values: The same.
        out: (tokens, heads, head_dim), contiguous.
        tables: Items are tiles of :attr:`AttentionShape.tile_queries` queries.
        items: How many programs are launched a KV head; as many as there are items, or more.
        shape: Of all.
    """
    tiling = shape.prefill
    _attend[(items, shape.kv_heads)](
        q,
        keys,
        values,
        out,
        out,
        *_for_items(tables),
        q.stride(0),
        shape.head_dim**-0.5,
        KV_HEADS=shape.kv_heads,
        GROUP=shape.group,
        HEAD_DIM=shape.head_dim,
        BLOCK_D=power_of_2(shape.head_dim),
        PAGE=shape.page_size,
        QUERIES=shape.tile_queries,
        BLOCK_M=tiling.rows,
        BLOCK_N=tiling.tokens,
        SPLIT=False,
        PDL=False,
        num_warps=tiling.warps,
        num_stages=tiling.stages,
    )


def decode(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    out: Tensor,
    tables: AttentionTables,
    items: int,
    shape: AttentionShape,
    *,
    overlap_launch: bool,
) -> None:
    """Attention of one query a sequence, its KV split over programs.

    Args:
        q: (tokens, heads, head_dim), heads one behind the other; those that decode stand where ``tables`` say.
        keys: (slots, KV heads, head_dim): a layer's, the step's own stored.
        values: The same.
        out: (tokens, heads, head_dim), contiguous; others are left as they are.
        tables: Items are parts of the KV, each sequence's in a row; a sequence without any is left out.
        items: How many programs are launched a KV head; as many as there are items, or more.
        shape: Of all.
        overlap_launch: Whether kernels may be launched while the ones before them end.
    """
    tiling = shape.decode
    heads, block_d = shape.heads, power_of_2(shape.head_dim)
    partial = torch.empty((items, heads, shape.head_dim), dtype=torch.float32, device=q.device)
    weights = torch.empty((items, heads), dtype=torch.float32, device=q.device)
    _attend[(items, shape.kv_heads)](
        q,
        keys,
        values,
        partial,
        weights,
        *_for_items(tables),
        q.stride(0),
        shape.head_dim**-0.5,
        KV_HEADS=shape.kv_heads,
        GROUP=shape.group,
        HEAD_DIM=shape.head_dim,
        BLOCK_D=block_d,
        PAGE=shape.page_size,
        QUERIES=1,
        BLOCK_M=tiling.rows,
        BLOCK_N=tiling.tokens,
        SPLIT=True,
        PDL=overlap_launch,
        num_warps=tiling.warps,
        num_stages=tiling.stages,
        **overlap(overlap_launch),
    )
    _merge[(len(tables.lengths), heads)](
        partial,
        weights,
        out,
        tables.query_starts,
        tables.item_starts,
        HEADS=heads,
        HEAD_DIM=shape.head_dim,
        BLOCK_D=block_d,
        BLOCK=_MERGED_ITEMS,
        PDL=overlap_launch,
        num_warps=2,
        **overlap(overlap_launch),
    )


def _for_items(tables: AttentionTables) -> tuple[Tensor, ...]:
    return (
        tables.limits,
        tables.lengths,
        tables.query_starts,
        tables.page_starts,
        tables.item_sequences,
        tables.item_parts,
        tables.pages,
    )


@direct
@triton.jit
def _attend(
    q,
    keys,
    values,
    out,
    weights,
    limits,
    lengths,
    query_starts,
    page_starts,
    item_sequences,
    item_parts,
    pages,
    q_stride,
    scale,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PAGE: tl.constexpr,
    QUERIES: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    SPLIT: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    item = tl.program_id(0)
    kv_head = tl.program_id(1)
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    if item >= tl.load(limits):  # a graph launches as many as there may be
        return
    sequence = tl.load(item_sequences + item)
    part = tl.load(item_parts + item)
    length = tl.load(lengths + sequence)
    first_token = tl.load(query_starts + sequence)
    queries = tl.load(query_starts + sequence + 1) - first_token
    context = length - queries
    if SPLIT:
        chunk = tl.load(limits + 1)
        first_query = 0
        start = part * chunk
        stop = tl.minimum(start + chunk, length)
        seen_by_all = stop
    else:
        first_query = part * QUERIES
        start = 0
        stop = tl.minimum(context + first_query + QUERIES, length)
        seen_by_all = context + first_query + 1
    row = tl.arange(0, BLOCK_M)
    column = tl.arange(0, BLOCK_D)
    query = first_query + row // GROUP
    head = kv_head * GROUP + row % GROUP
    there = (row < QUERIES * GROUP) & (query < queries)
    inside = there[:, None] & (column < HEAD_DIM)[None, :]
    token = (first_token + query).to(tl.int64)
    q_at = q + (token * q_stride + head * HEAD_DIM)[:, None] + column[None, :]
    tile = tl.load(q_at, mask=inside, other=0.0)

    highest = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    mixed = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    table = pages + tl.load(page_starts + sequence)
    last_seen = context + query
    scale *= 1.4426950408889634  # powers of 2 are what the hardware has
    unmasked = start + (seen_by_all - start) // BLOCK_N * BLOCK_N
    mixed, total, highest = _over_kv(
        tile,
        keys,
        values,
        table,
        mixed,
        total,
        highest,
        last_seen,
        scale,
        start,
        unmasked,
        kv_head,
        KV_HEADS,
        HEAD_DIM,
        BLOCK_D,
        PAGE,
        BLOCK_N,
        False,
    )
    mixed, total, highest = _over_kv(
        tile,
        keys,
        values,
        table,
        mixed,
        total,
        highest,
        last_seen,
        scale,
        unmasked,
        stop,
        kv_head,
        KV_HEADS,
        HEAD_DIM,
        BLOCK_D,
        PAGE,
        BLOCK_N,
        True,
    )
    mixed /= total[:, None]
    if SPLIT:
        at = item.to(tl.int64) * (KV_HEADS * GROUP) + head
        tl.store(weights + at, highest + tl.log2(total), mask=there)
    else:
        at = token * (KV_HEADS * GROUP) + head
    tl.store(out + at[:, None] * HEAD_DIM + column[None, :], mixed.to(out.dtype.element_ty), mask=inside)


@triton.jit
def _over_kv(
    tile,
    keys,
    values,
    table,
    mixed,
    total,
    highest,
    last_seen,
    scale,
    start,
    stop,
    kv_head,
    KV_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    PAGE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    MASKED: tl.constexpr,
):
    """Online softmax over KV from ``start`` to ``stop``; returns what it has summed up so far."""
    column = tl.arange(0, BLOCK_D)
    for first in range(start, stop, BLOCK_N):
        position = first + tl.arange(0, BLOCK_N)
        if MASKED:
            page = tl.load(table + position // PAGE, mask=position < stop, other=0)
            readable = (position < stop)[:, None] & (column < HEAD_DIM)[None, :]
        else:
            page = tl.load(table + position // PAGE)
            readable = (column < HEAD_DIM)[None, :]
        slot = page.to(tl.int64) * PAGE + position % PAGE
        at = (slot * (KV_HEADS * HEAD_DIM) + kv_head * HEAD_DIM)[:, None] + column[None, :]
        key = tl.load(keys + at, mask=readable, other=0.0).to(tile.dtype)
        scores = tl.dot(tile, tl.trans(key)) * scale
        if MASKED:
            seen = (position[None, :] <= last_seen[:, None]) & (position < stop)[None, :]
            scores = tl.where(seen, scores, float("-inf"))
        higher = tl.maximum(highest, tl.max(scores, axis=1))
        shrunk = tl.exp2(highest - higher)
        weight = tl.exp2(scores - higher[:, None])
        total = total * shrunk + tl.sum(weight, axis=1)
        value = tl.load(values + at, mask=readable, other=0.0).to(tile.dtype)
        mixed = tl.dot(weight.to(tile.dtype), value, mixed * shrunk[:, None])
        highest = higher
    return mixed, total, highest


@direct
@triton.jit
def _merge(
    partial,
    weights,
    out,
    query_starts,
    item_starts,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    """A decode's result from its items': their mean, weighted by their sums of powers."""
    sequence = tl.program_id(0)
    head = tl.program_id(1)
    column = tl.arange(0, BLOCK_D)
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
    first = tl.load(item_starts + sequence)
    stop = tl.load(item_starts + sequence + 1)
    if first >= stop:  # a graph's tables have room for more sequences
        return
    highest = tl.full([1], float("-inf"), tl.float32)
    total = tl.zeros([1], tl.float32)
    mixed = tl.zeros([BLOCK_D], tl.float32)
    for start in range(first, stop, BLOCK):
        item = start + tl.arange(0, BLOCK)
        there = item < stop
        at = item.to(tl.int64) * HEADS + head
        exponent = tl.load(weights + at, mask=there, other=float("-inf"))
        higher = tl.maximum(highest, tl.max(exponent, axis=0))
        weight = tl.exp2(exponent - higher)
        readable = there[:, None] & (column < HEAD_DIM)[None, :]
        part = tl.load(partial + at[:, None] * HEAD_DIM + column[None, :], mask=readable, other=0.0)
        shrunk = tl.exp2(highest - higher)
        total = total * shrunk + tl.sum(weight, axis=0)
        mixed = mixed * shrunk + tl.sum(weight[:, None] * part, axis=0)
        highest = higher
    token = tl.load(query_starts + sequence)
    to = out + (token.to(tl.int64) * HEADS + head) * HEAD_DIM + column
    tl.store(to, (mixed / total).to(out.dtype.element_ty), mask=column < HEAD_DIM)

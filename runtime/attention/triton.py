"""Attention by Triton kernels of our own: any page size and head width, no compiler on the machine but Triton's."""

from __future__ import annotations

from bisect import bisect_left
from itertools import accumulate

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from runtime.attention.base import (
    AttentionMetadata,
    AttentionStep,
    ChunkedLimits,
    GpuAttention,
    GraphStep,
    IntArray,
)
from runtime.attention.tables import aligned, fill_starts, joined
from runtime.kernels import HeadNorms, Kernels
from runtime.kernels.fused_decode import fused_decode
from runtime.kernels.launch import OVERLAP_TOKENS
from runtime.kernels.paged_attention import SPLIT_TOKENS, AttentionShape, AttentionTables, decode, prefill

_PROGRAMS_A_PROCESSOR = 4  # among which short batches are split
_PROCESSORS_OF_A_CPU = 8  # in Triton's interpreter


class TritonAttention(GpuAttention):
    """Plans the work once a step, on the host, in one small copy; the layers only launch.

    Args:
        kv: (layers, 2, slots, KV heads, head_dim): the KV pool, keys at 0 and values at 1; fp8 (e4m3) where activations
            are not.
        page_size: Tokens a page.
        heads: Query heads of this rank.
    """

    def __init__(self, kv: Tensor, page_size: int, heads: int) -> None:
        self.kv = kv
        self.page_size = page_size
        self.shape = AttentionShape(heads, kv.shape[-2], kv.shape[-1], page_size)
        processors = _PROCESSORS_OF_A_CPU
        self.overlap_launch = False
        if kv.is_cuda:
            properties = torch.cuda.get_device_properties(kv.device)
            processors = properties.multi_processor_count
            self.overlap_launch = properties.major >= 9
        self._programs = processors * _PROGRAMS_A_PROCESSOR

    def plan(self, metadata: AttentionMetadata) -> AttentionStep:
        queries, lengths, split = metadata.query_lengths, metadata.lengths, metadata.prefills
        prefills, decodes = slice(0, split), slice(split, len(lengths))
        tiles = int((-(-queries[prefills] // self.shape.tile_queries)).sum())
        chunks = self.chunk_work(queries[prefills], lengths[prefills], metadata.pages[prefills], tiles)
        singles = self.decode_work(lengths[decodes], metadata.pages[decodes])
        return _EagerStep(self, metadata.slots, int(queries[prefills].sum()), chunks, singles)

    def graph_step(self, size: int, slots: Tensor, tables: Tensor) -> TritonGraphStep:
        return TritonGraphStep(self, size, slots, tables)

    def fused_step(self, size: int, slots: Tensor, tables: Tensor) -> FusedGraphStep:
        return FusedGraphStep(self, size, slots, tables)

    def table_entries(self, size: int, columns: int) -> int:
        return aligned(_Layout(size, self.most_items(size)).pages + size * columns)

    def chunked_step(self, most: ChunkedLimits, slots: Tensor, tables: Tensor) -> TritonChunkedStep:
        """A step with chunks, to capture in a CUDA graph and to plan anew before each replay.

        Args:
            most: What it has room for; it has exactly so many tokens.
            slots: (tokens,) int64 on the device, at an address that stays.
            tables: int32 on the device, :meth:`chunked_entries` long at least; steps that run in turn may share it.
        """
        return TritonChunkedStep(self, most, slots, tables)

    def chunked_entries(self, most: ChunkedLimits, columns: int) -> int:
        """Entries of the tables of a step with chunks, where the longest decode has ``columns`` pages."""
        return self.chunk_entries(most) + self.table_entries(most.decodes, columns)

    def chunk_entries(self, most: ChunkedLimits) -> int:
        """Of those, the chunks', which stand first."""
        return aligned(_Layout(most.chunks, self.most_tiles(most)).pages + most.chunk_pages)

    def most_tiles(self, most: ChunkedLimits) -> int:
        """Tiles that the chunks' queries are cut into at most."""
        return most.tokens // self.shape.tile_queries + most.chunks

    def most_items(self, sequences: int) -> int:
        """Parts that the KV of so many decodes is split into at most: enough to fill the GPU."""
        return sequences + max(sequences, self._programs // self.shape.kv_heads)

    def decode_work(self, lengths: IntArray, pages: npt.NDArray[np.int32]) -> _Work:
        """Decodes, their KV split evenly."""
        most = self.most_items(len(lengths))
        items, chunk = split_kv(lengths, most)
        return _Work(self.kv.device, lengths, np.ones_like(lengths), pages, self.page_size, items, chunk, most)

    def chunk_work(self, queries: IntArray, lengths: IntArray, pages: npt.NDArray[np.int32], most_tiles: int) -> _Work:
        """Tiles of queries; those that see most stand first, so that none of them is left for the end."""
        tile = self.shape.tile_queries
        items = -(-queries // tile)
        work = _Work(self.kv.device, lengths, queries, pages, self.page_size, items, tile, most_tiles)
        seen = (lengths - queries)[work.item_sequences] + work.item_parts * tile
        order = np.argsort(-seen, kind="stable")
        work.item_sequences[:], work.item_parts[:] = work.item_sequences[order], work.item_parts[order]
        return work


def split_kv(lengths: IntArray, most_items: int) -> tuple[IntArray, int]:
    """Cut decodes' KV into parts of one length, the shortest whose number does not exceed ``most_items``.

    Args:
        lengths: (sequences,) tokens of KV.
        most_items: At least as many as sequences.

    Returns:
        (sequences,) parts of each, and the tokens of a part.
    """
    blocks = -(-lengths // SPLIT_TOKENS)
    least = max(int(blocks.sum()) // max(most_items, 1), 1)
    sizes = range(least, max(int(blocks.max(initial=1)), least) + 1)
    chunk = sizes[bisect_left(sizes, -most_items, key=lambda size: -int((-(-blocks // size)).sum()))]
    return -(-blocks // chunk), chunk * SPLIT_TOKENS


class _Layout:
    """Where the tables of so many sequences and items begin in one array; each is aligned."""

    def __init__(self, sequences: int, items: int) -> None:
        self.sizes = [2, sequences, sequences + 1, sequences + 1, sequences + 1, items, items]
        self.starts = list(accumulate((aligned(size) for size in self.sizes), initial=0))
        self.pages = self.starts[-1]

    def tables(self, flat: Tensor) -> AttentionTables:
        """Views of an array at least as long as needed."""
        views = [flat[start : start + size] for start, size in zip(self.starts, self.sizes, strict=False)]
        return AttentionTables._make([*views, flat[self.pages :]])


class _Work:
    """A part of a step, prefills or decodes, as the kernels read it, on the host.

    The last sequences may have no pages, and no row of ``pages``.

    Attributes:
        host: int32, pinned: all tables.
        query_starts: (sequences + 1,) a view of it.
        items: How many.
        item_sequences: (items,) a view of it.
        item_parts: (items,) another.
    """

    def __init__(
        self,
        device: torch.device,
        lengths: IntArray,
        queries: IntArray,
        pages: npt.NDArray[np.int32],
        page_size: int,
        items: IntArray,
        chunk: int,
        most_items: int,
    ) -> None:
        self._layout = _Layout(len(lengths), most_items)
        counts = -(-lengths // page_size)
        used = self._layout.pages + int(counts.sum())
        self.host = torch.empty(aligned(used), dtype=torch.int32, pin_memory=device.type == "cuda")
        self._device = device
        self.items = int(items.sum())
        flat = self.host.numpy()
        limits, seen, self.query_starts, page_starts, item_starts, sequences, parts = (
            flat[start : start + size] for start, size in zip(self._layout.starts, self._layout.sizes, strict=False)
        )
        limits[:] = self.items, chunk
        seen[:] = lengths
        fill_starts(self.query_starts, queries)
        fill_starts(page_starts, counts)
        fill_starts(item_starts, items)
        self.item_sequences, self.item_parts = sequences[: self.items], parts[: self.items]
        self.item_sequences[:] = np.repeat(np.arange(len(lengths)), items)
        self.item_parts[:] = np.arange(self.items) - np.repeat(item_starts[:-1], items)
        if len(pages):
            joined(pages, counts[: len(pages)], out=flat[self._layout.pages : used])

    def on_device(self) -> tuple[AttentionTables, int]:
        """The tables there, and the number of items."""
        return self._layout.tables(self.host.to(self._device, non_blocking=True)), self.items


class _EagerStep(AttentionStep):
    def __init__(
        self, attention: TritonAttention, slots: Tensor, prefilled: int, chunks: _Work, singles: _Work
    ) -> None:
        super().__init__(attention.kv, slots)
        self._shape = attention.shape
        self._overlap = attention.overlap_launch and len(slots) <= OVERLAP_TOKENS
        self._prefilled = prefilled  # tokens of chunks, which stand first
        self._chunks = chunks.on_device()
        self._singles = singles.on_device()

    def attend(self, layer: int, q: Tensor) -> Tensor:
        keys, values = self.kv(layer)
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        split = self._prefilled
        if split:
            prefill(q[:split], keys, values, out[:split], *self._chunks, self._shape)
        if split < len(q):
            decode(q[split:], keys, values, out[split:], *self._singles, self._shape, overlap_launch=self._overlap)
        return out


class TritonGraphStep(GraphStep):
    """Decode of a fixed number of sequences: as many programs as there may be parts, and those too many end at once."""

    def __init__(self, attention: TritonAttention, size: int, slots: Tensor, tables: Tensor) -> None:
        super().__init__(attention.kv, slots)
        self._attention = attention
        self._most_items = attention.most_items(size)
        self._flat = tables
        self._tables = _Layout(size, self._most_items).tables(tables)
        self._overlap = attention.overlap_launch and size <= OVERLAP_TOKENS

    def plan(self, lengths: IntArray, pages: npt.NDArray[np.int32]) -> None:
        host = self._attention.decode_work(lengths, pages).host
        self._flat[: len(host)].copy_(host, non_blocking=True)

    def attend(self, layer: int, q: Tensor) -> Tensor:
        keys, values = self.kv(layer)
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        shape = self._attention.shape
        decode(q, keys, values, out, self._tables, self._most_items, shape, overlap_launch=self._overlap)
        return out


class FusedGraphStep(TritonGraphStep):
    """The same, a layer in one kernel.

    Attributes:
        arrived: (size * KV heads,) int32, see :func:`runtime.kernels.fused_decode.fused_decode`.
    """

    def __init__(self, attention: TritonAttention, size: int, slots: Tensor, tables: Tensor) -> None:
        super().__init__(attention, size, slots, tables)
        self.arrived = torch.zeros(size * attention.shape.kv_heads, dtype=torch.int32, device=slots.device)

    def rotate_and_attend(
        self,
        layer: int,
        qkv: Tensor,
        norms: HeadNorms | None,
        cos: Tensor,
        sin: Tensor,
        kernels: Kernels,  # noqa: ARG002
    ) -> Tensor:
        return fused_decode(
            qkv,
            norms,
            cos,
            sin,
            *self.kv(layer),
            self.slots,
            self._tables,
            self._most_items,
            self.arrived,
            self._attention.shape,
            overlap_launch=self._overlap,
        )


class TritonChunkedStep(AttentionStep):
    """A fixed number of tokens: chunks of prompts, then decodes; see :meth:`TritonAttention.chunked_step`.

    As many programs as there may be tiles, and parts of decodes' KV; those too many end at once.
    """

    def __init__(self, attention: TritonAttention, most: ChunkedLimits, slots: Tensor, tables: Tensor) -> None:
        super().__init__(attention.kv, slots)
        self._attention = attention
        self._most = most
        self._most_tiles, self._most_items = attention.most_tiles(most), attention.most_items(most.decodes)
        split = attention.chunk_entries(most)
        self._flat = tables[:split], tables[split:]
        self._chunks = _Layout(most.chunks, self._most_tiles).tables(self._flat[0])
        self._singles = _Layout(most.decodes, self._most_items).tables(self._flat[1])
        self._overlap = attention.overlap_launch and most.tokens <= OVERLAP_TOKENS

    def plan(self, queries: IntArray, lengths: IntArray, pages: npt.NDArray[np.int32], prefills: int) -> None:
        """Prepare the next run, without waiting for the one before.

        Args:
            queries: (sequences,) tokens that each computes.
            lengths: (sequences,) tokens that the last of those attends to.
            pages: (sequences, columns) pages of each one's row; behind its length they mean nothing.
            prefills: How many of the sequences, the first, compute a chunk.
        """
        most, work = self._most, self._attention
        no_chunks, no_decodes = most.chunks - prefills, most.decodes - (len(lengths) - prefills)
        chunks = work.chunk_work(
            np.pad(queries[:prefills], (0, no_chunks)),
            np.pad(lengths[:prefills], (0, no_chunks)),
            pages[:prefills],
            self._most_tiles,
        )
        singles = work.decode_work(np.pad(lengths[prefills:], (0, no_decodes)), pages[prefills:])
        singles.query_starts += int(queries[:prefills].sum())  # behind the chunks' tokens
        for table, part in zip(self._flat, (chunks, singles), strict=True):
            table[: len(part.host)].copy_(part.host, non_blocking=True)

    def attend(self, layer: int, q: Tensor) -> Tensor:
        keys, values = self.kv(layer)
        out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
        shape = self._attention.shape
        prefill(q, keys, values, out, self._chunks, self._most_tiles, shape)
        decode(q, keys, values, out, self._singles, self._most_items, shape, overlap_launch=self._overlap)
        return out

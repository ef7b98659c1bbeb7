"""Attention in plain PyTorch: the reference, and what runs on a CPU."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from runtime.attention.base import Attention, AttentionMetadata, AttentionStep, IntArray
from runtime.kernels.fp8 import as_bytes


class TorchAttention(Attention):
    """Gathers the pages of each sequence, then scaled dot-product attention.

    Args:
        kv: (layers, 2, slots, KV heads, head_dim): the KV pool, keys at 0 and values at 1.
        page_size: Tokens a page.
    """

    def __init__(self, kv: Tensor, page_size: int) -> None:
        self._kv = kv
        self._page_size = page_size

    def plan(self, metadata: AttentionMetadata) -> AttentionStep:
        lengths, prefills = metadata.lengths, metadata.prefills
        starts = metadata.query_lengths.cumsum() - metadata.query_lengths
        chunks = [self._chunk(metadata, sequence, int(starts[sequence])) for sequence in range(prefills)]
        # Decodes of about the same length together: padding at most doubles what is read.
        decodes = np.arange(prefills, len(lengths))
        classes = np.frexp(lengths[prefills:])[1]
        groups = [self._decode_group(metadata, decodes[classes == size], starts) for size in np.unique(classes)]
        return _TorchStep(self._kv, self._page_size, metadata.slots, chunks, groups)

    def _chunk(self, metadata: AttentionMetadata, sequence: int, start: int) -> _Chunk:
        count, length = int(metadata.query_lengths[sequence]), int(metadata.lengths[sequence])
        pages = metadata.pages[sequence, : -(-length // self._page_size)]
        mask = None
        if count < length:  # each query sees the context and the chunk up to itself
            mask = torch.ones(count, length, dtype=torch.bool, device=self._kv.device).tril(length - count)
        return _Chunk(slice(start, start + count), length, self._put(pages), mask)

    def _decode_group(self, metadata: AttentionMetadata, sequences: IntArray, starts: IntArray) -> _DecodeGroup:
        lengths = metadata.lengths[sequences, None]
        columns = np.arange(-(-int(lengths.max()) // self._page_size))
        # Behind a length the page table means nothing: any page will do, the mask hides it.
        pages = np.where(columns * self._page_size < lengths, metadata.pages[sequences, : len(columns)], 0)
        seen = np.arange(len(columns) * self._page_size) < lengths
        return _DecodeGroup(self._put(starts[sequences]), self._put(pages), self._put(seen)[:, None, None, :])

    def _put(self, array: npt.NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(self._kv.device)


class _Chunk(NamedTuple):
    tokens: slice  # of the step
    length: int  # of context and chunk
    pages: Tensor  # that hold it
    mask: Tensor | None  # (tokens, length); None where there is no context


class _DecodeGroup(NamedTuple):
    tokens: Tensor  # (sequences,) index into the step's tokens
    pages: Tensor  # (sequences, columns)
    mask: Tensor  # (sequences, 1, 1, columns * page_size)


class _TorchStep(AttentionStep):
    def __init__(
        self, kv: Tensor, page_size: int, slots: Tensor, chunks: list[_Chunk], groups: list[_DecodeGroup]
    ) -> None:
        super().__init__(kv, slots)
        self._page_size = page_size
        self._chunks = chunks
        self._groups = groups

    def attend(self, layer: int, q: Tensor) -> Tensor:
        keys, values = self.kv(layer)
        out = torch.empty_like(q)
        for chunk in self._chunks:
            # (1, heads, tokens, head_dim)
            query = q[chunk.tokens].transpose(0, 1)[None]
            key, value = (
                self._gather(x, chunk.pages, q.dtype)[: chunk.length].transpose(0, 1)[None] for x in (keys, values)
            )
            attended = F.scaled_dot_product_attention(
                query, key, value, attn_mask=chunk.mask, is_causal=chunk.mask is None, enable_gqa=True
            )
            out[chunk.tokens] = attended[0].transpose(0, 1)
        for group in self._groups:
            # Query heads that share a KV head stand where queries do: (sequences, KV heads, sharing, head_dim).
            query = q[group.tokens].reshape(len(group.tokens), keys.shape[1], -1, q.shape[-1])
            key, value = (self._gather(x, group.pages, q.dtype).transpose(1, 2) for x in (keys, values))
            attended = F.scaled_dot_product_attention(query, key, value, attn_mask=group.mask)
            out[group.tokens] = attended.flatten(1, 2)
        return out

    def _gather(self, x: Tensor, pages: Tensor, dtype: torch.dtype) -> Tensor:
        """A layer's keys or values on pages, as ``dtype``.

        (..., pages) to (..., pages * page_size, KV heads, head_dim).
        """
        by_page = as_bytes(x).view(-1, self._page_size * x.shape[1] * x.shape[2])
        rows = by_page.index_select(0, pages.flatten()).view(*pages.shape[:-1], -1, *x.shape[1:])
        return rows.view(x.dtype).to(dtype)

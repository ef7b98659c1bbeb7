"""Attention in plain PyTorch: the reference, and what runs on a CPU."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from runtime.attention.base import Attention, AttentionMetadata, AttentionStep, IntArray


class TorchAttention(Attention):
    """Gathers each sequence's KV, then scaled dot-product attention.

    Args:
        kv: (layers, 2, slots, KV heads, head_dim): the KV pool, keys at 0 and values at 1.
        page_size: Tokens a page.
    """

    def __init__(self, kv: Tensor, page_size: int) -> None:
        self._kv = kv
        self._page_size = page_size

    def plan(self, metadata: AttentionMetadata) -> AttentionStep:
        """Slots and masks, which all layers share."""
        lengths, prefills = metadata.lengths, metadata.prefills
        starts = metadata.query_lengths.cumsum() - metadata.query_lengths
        chunks = [
            self._chunk(metadata, sequence, int(starts[sequence]), int(metadata.query_lengths[sequence]))
            for sequence in range(prefills)
        ]
        # Decodes of about the same length together: padding at most doubles what is read.
        decodes = np.arange(prefills, len(lengths))
        classes = np.frexp(lengths[prefills:])[1]
        groups = [self._decode_group(metadata, decodes[classes == size], starts) for size in np.unique(classes)]
        return _TorchStep(self._kv, metadata.slots, chunks, groups)

    def _slots(self, pages: np.ndarray[tuple[int, ...], np.dtype[np.int32]], length: int) -> IntArray:
        """Slots of the first ``length`` positions: (..., length)."""
        positions = np.arange(length)
        page, offset = np.divmod(positions, self._page_size)
        return pages[..., page].astype(np.int64) * self._page_size + offset

    def _chunk(self, metadata: AttentionMetadata, sequence: int, start: int, count: int) -> _Chunk:
        length = int(metadata.lengths[sequence])
        slots = torch.from_numpy(self._slots(metadata.pages[sequence], length)).to(self._kv.device)
        mask = None
        if count < length:  # each query sees the context and the chunk up to itself
            mask = torch.ones(count, length, dtype=torch.bool, device=self._kv.device).tril(length - count)
        return _Chunk(slice(start, start + count), slots, mask)

    def _decode_group(self, metadata: AttentionMetadata, sequences: IntArray, starts: IntArray) -> _DecodeGroup:
        lengths = metadata.lengths[sequences, None]
        longest = int(lengths.max())
        seen = np.arange(longest) < lengths
        slots = np.where(seen, self._slots(metadata.pages[sequences], longest), 0)
        tokens, gathered, mask = (
            torch.from_numpy(array).to(self._kv.device) for array in (starts[sequences], slots, seen)
        )
        return _DecodeGroup(tokens, gathered, mask[:, None, None, :])


class _Chunk(NamedTuple):
    tokens: slice  # of the step
    slots: Tensor  # (length,)
    mask: Tensor | None  # (tokens, length); None where there is no context


class _DecodeGroup(NamedTuple):
    tokens: Tensor  # (sequences,) index into the step's tokens
    slots: Tensor  # (sequences, longest)
    mask: Tensor  # (sequences, 1, 1, longest)


class _TorchStep(AttentionStep):
    def __init__(self, kv: Tensor, slots: Tensor, chunks: list[_Chunk], groups: list[_DecodeGroup]) -> None:
        self._kv = kv
        self._slots = slots
        self._chunks = chunks
        self._groups = groups

    def forward(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        keys, values = self._kv[layer]
        keys[self._slots] = k
        values[self._slots] = v
        out = torch.empty_like(q)
        for tokens, slots, mask in self._chunks:
            # (1, heads, tokens, head_dim)
            query, key, value = (x.transpose(0, 1)[None] for x in (q[tokens], keys[slots], values[slots]))
            attended = F.scaled_dot_product_attention(
                query, key, value, attn_mask=mask, is_causal=mask is None, enable_gqa=True
            )
            out[tokens] = attended[0].transpose(0, 1)
        for group in self._groups:
            # Query heads that share a KV head stand where queries do: (sequences, KV heads, sharing, head_dim).
            query = q[group.tokens].reshape(len(group.tokens), keys.shape[1], -1, q.shape[-1])
            key, value = (x[group.slots].transpose(1, 2) for x in (keys, values))
            attended = F.scaled_dot_product_attention(query, key, value, attn_mask=group.mask)
            out[group.tokens] = attended.flatten(1, 2)
        return out

"""One attention backend for prefill, another for decode, over the same KV pool."""

from __future__ import annotations

import torch
from torch import Tensor

from runtime.attention.base import Attention, AttentionMetadata, AttentionStep, GpuAttention, GraphStep


class SplitAttention(GpuAttention):
    """Gives each backend its part of a step.

    Args:
        prefill: For sequences that compute a chunk of their prompt.
        decode: For those that compute one token; graphs are its own.
    """

    def __init__(self, prefill: Attention, decode: GpuAttention) -> None:
        self.kv = decode.kv
        self.page_size = decode.page_size
        self._prefill = prefill
        self._decode = decode

    def plan(self, metadata: AttentionMetadata) -> AttentionStep:
        count = metadata.prefills
        if not count:
            return self._decode.plan(metadata)
        if count == len(metadata.lengths):
            return self._prefill.plan(metadata)
        tokens = int(metadata.query_lengths[:count].sum())
        chunks = _part(metadata, slice(0, count), slice(0, tokens), count)
        singles = _part(metadata, slice(count, None), slice(tokens, None), 0)
        return _SplitStep(self.kv, metadata.slots, tokens, self._prefill.plan(chunks), self._decode.plan(singles))

    def graph_step(self, size: int, slots: Tensor, tables: Tensor) -> GraphStep:
        return self._decode.graph_step(size, slots, tables)

    def fused_step(self, size: int, slots: Tensor, tables: Tensor) -> GraphStep | None:
        return self._decode.fused_step(size, slots, tables)

    def table_entries(self, size: int, columns: int) -> int:
        return self._decode.table_entries(size, columns)


def _part(metadata: AttentionMetadata, sequences: slice, tokens: slice, prefills: int) -> AttentionMetadata:
    return AttentionMetadata(
        metadata.query_lengths[sequences],
        metadata.lengths[sequences],
        metadata.pages[sequences],
        prefills,
        metadata.slots[tokens],
    )


class _SplitStep(AttentionStep):
    def __init__(
        self, kv: Tensor, slots: Tensor, prefilled: int, prefill: AttentionStep, decode: AttentionStep
    ) -> None:
        super().__init__(kv, slots)
        self._prefilled = prefilled  # tokens of chunks, which stand first
        self._prefill = prefill
        self._decode = decode

    def attend(self, layer: int, q: Tensor) -> Tensor:
        chunks, singles = q[: self._prefilled], q[self._prefilled :]
        return torch.cat([self._prefill.attend(layer, chunks), self._decode.attend(layer, singles)])

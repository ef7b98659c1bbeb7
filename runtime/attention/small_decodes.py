"""One attention backend for captured decodes of few sequences, another for all else, over the same KV pool."""

from __future__ import annotations

from torch import Tensor

from runtime.attention.base import AttentionMetadata, AttentionStep, GpuAttention, GraphStep


class SmallDecodes(GpuAttention):
    """Chooses by the size of a graph.

    Args:
        small: For captured decodes.
        rest: For larger ones, and for all other steps.
        most: Sequences of the largest that is small.
    """

    def __init__(self, small: GpuAttention, rest: GpuAttention, most: int) -> None:
        self.kv = rest.kv
        self.page_size = rest.page_size
        self._small = small
        self._rest = rest
        self._most = most

    def plan(self, metadata: AttentionMetadata) -> AttentionStep:
        return self._rest.plan(metadata)

    def graph_step(self, size: int, slots: Tensor, tables: Tensor) -> GraphStep:
        chosen = self._small if size <= self._most else self._rest
        return chosen.graph_step(size, slots, tables)

    def table_entries(self, size: int, columns: int) -> int:
        small = self._small.table_entries(min(size, self._most), columns)
        return max(small, self._rest.table_entries(size, columns))

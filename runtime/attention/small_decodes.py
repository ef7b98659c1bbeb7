"""One attention backend for captured decodes in one kernel a layer, another for all else, over the same KV pool."""

from __future__ import annotations

from torch import Tensor

from runtime.attention.base import AttentionMetadata, AttentionStep, GpuAttention, GraphStep
from runtime.scheduler.graph_sizes import FUSED_SEQUENCES


class SmallDecodes(GpuAttention):
    """Has small decodes of little KV attend as one backend does, and all other steps as another.

    Args:
        small: Its fused steps are these decodes'.
        rest: For all other steps.
    """

    def __init__(self, small: GpuAttention, rest: GpuAttention) -> None:
        self.kv = rest.kv
        self.page_size = rest.page_size
        self._small = small
        self._rest = rest

    def plan(self, metadata: AttentionMetadata) -> AttentionStep:
        return self._rest.plan(metadata)

    def graph_step(self, size: int, slots: Tensor, tables: Tensor) -> GraphStep:
        return self._rest.graph_step(size, slots, tables)

    def fused_step(self, size: int, slots: Tensor, tables: Tensor) -> GraphStep | None:
        return self._small.fused_step(size, slots, tables)

    def table_entries(self, size: int, columns: int) -> int:
        small = self._small.table_entries(min(size, FUSED_SEQUENCES), columns)
        return max(small, self._rest.table_entries(size, columns))

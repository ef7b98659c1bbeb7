"""Decode steps as CUDA graphs: one launch where there were hundreds."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from runtime.attention.base import GpuAttention, GraphStep
from runtime.engine.inputs import IntArray, StepInputs
from runtime.models.decoder import CausalLm
from runtime.scheduler.graph_sizes import FUSED_SEQUENCES, decodes_fused, ladder

logger = logging.getLogger(__name__)

_TOLD = 8  # every so many graphs


def captured(forward: Callable[[], Tensor], pool: Any) -> tuple[torch.cuda.CUDAGraph, Tensor]:
    """A forward pass as a graph, and where it leaves its result.

    Args:
        forward: Its inputs stay where they are, and are such that it can run now.
        pool: Memory that graphs share.
    """
    forward()  # outside of the graph, for what allocates or compiles when it is first called
    graph = torch.cuda.CUDAGraph()
    # Other threads, such as NCCL's, may look at events of theirs meanwhile.
    with torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"):
        result = forward()
    return graph, result


class _Captured(NamedTuple):
    graph: torch.cuda.CUDAGraph
    attention: GraphStep
    hidden: Tensor


class DecodeGraphs:
    """The forward pass of a decode, captured at a ladder of batch sizes; a smaller batch is padded.

    A small size is captured twice, where attention can fuse a layer's kernels: for little KV and for much.

    Padding decodes a token of no sequence onto the page of no sequence. All graphs share their memory: what a
    step computes is to be read before the next one is run.

    Args:
        model: On the GPU.
        attention: Over a KV pool with a page more than the scheduler knows: the last, for padding.
        last_token: (rows + 1,) the token that each row decodes next; the last row is padding's.
        largest: The largest batch.
        columns: Pages of the longest sequence.
        pool: Memory for graphs.
    """

    def __init__(
        self,
        model: CausalLm,
        attention: GpuAttention,
        last_token: Tensor,
        *,
        largest: int,
        columns: int,
        pool: Any,
    ) -> None:
        self._sizes = ladder(largest)
        self._page_size = attention.page_size
        self._padding_row = len(last_token) - 1
        self._padding_page = attention.padding_page
        device = last_token.device
        self._inputs = torch.zeros(3 * largest, dtype=torch.int64, device=device)  # rows, positions, slots
        tables = torch.zeros(attention.table_entries(largest, columns), dtype=torch.int32, device=device)
        self._token_bytes = attention.kv[0, :, 0].nbytes  # of a layer's KV
        self._captured: dict[int, _Captured] = {}
        self._fused: dict[int, _Captured] = {}

        def capture(size: int, step: GraphStep) -> _Captured:
            rows, positions, slots = self._inputs[: 3 * size].view(3, size)
            rows.fill_(self._padding_row)
            positions.zero_()
            slots.fill_(self._padding_page * self._page_size)
            step.plan(np.ones(size, np.int64), np.full((size, 1), self._padding_page, np.int32))
            graph, hidden = captured(lambda: model(last_token[rows], positions, step), pool)
            return _Captured(graph, step, hidden)

        for size in reversed(self._sizes):  # the largest first: the others fit in its memory
            slots = self._inputs[2 * size : 3 * size]
            self._captured[size] = capture(size, attention.graph_step(size, slots, tables))
            if size <= FUSED_SEQUENCES and (fused := attention.fused_step(size, slots, tables)):
                self._fused[size] = capture(size, fused)
            if len(self._captured) % _TOLD == 0 or len(self._captured) == len(self._sizes):
                logger.info("CUDA graphs: captured %d of %d batch sizes", len(self._captured), len(self._sizes))

    def padded(self, sequences: int) -> int:
        """The size of the graph that runs so many decodes."""
        return next(size for size in self._sizes if size >= sequences)

    def run(self, inputs: StepInputs) -> tuple[Tensor, Tensor]:
        """Run a step that only decodes.

        Returns:
            (sequences, hidden_size), and (sequences,) rows, on the device until the next step.
        """
        count = len(inputs.rows)
        size = self.padded(count)
        chosen = self._captured[size]
        if size in self._fused and decodes_fused(size, int(inputs.lengths.sum()), self._token_bytes):
            chosen = self._fused[size]
        padding = size - count
        pinned = torch.empty(3, size, dtype=torch.int64, pin_memory=self._inputs.is_cuda)
        host = pinned.numpy()
        host[:, :count] = inputs.rows, inputs.positions, inputs.slots
        host[:, count:] = np.array([[self._padding_row], [0], [self._padding_page * self._page_size]])
        self._inputs[: 3 * size].copy_(pinned.view(-1), non_blocking=True)
        chosen.attention.plan(*self._padded(inputs, padding))
        chosen.graph.replay()
        return chosen.hidden[:count], self._inputs[:count]

    def _padded(self, inputs: StepInputs, padding: int) -> tuple[IntArray, npt.NDArray[np.int32]]:
        if not padding:
            return inputs.lengths, inputs.pages
        lengths = np.concatenate([inputs.lengths, np.ones(padding, np.int64)])
        pages = np.concatenate([inputs.pages, np.full((padding, inputs.pages.shape[1]), self._padding_page, np.int32)])
        return lengths, pages

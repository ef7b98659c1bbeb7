"""What a model needs of attention, and what an attention backend is told of a step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from torch import Tensor

from runtime.kernels import HeadNorms, Kernels

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class AttentionMetadata:
    """One step's sequences: first those that compute a chunk of their prompt, then those that decode one token.

    Attributes:
        query_lengths: (sequences,) tokens that each computes.
        lengths: (sequences,) tokens that the last of those attends to: context and chunk together.
        pages: (sequences, columns) pages of each one's row; behind its length they mean nothing.
        prefills: How many compute a chunk.
        slots: (tokens,) int64 on the device: where each computed token's KV goes.
    """

    query_lengths: IntArray
    lengths: IntArray
    pages: npt.NDArray[np.int32]
    prefills: int
    slots: Tensor


class AttentionStep(ABC):
    """Attention for one step, planned; the forward pass is handed it.

    Args:
        kv: (layers, 2, slots, KV heads, head_dim): the KV pool, keys at 0 and values at 1.
        slots: (tokens,) int64: where each computed token's KV goes.
    """

    def __init__(self, kv: Tensor, slots: Tensor) -> None:
        self._kv = kv
        self.slots = slots

    def kv(self, layer: int) -> tuple[Tensor, Tensor]:
        """A layer's keys and values in the KV pool: (slots, KV heads, head_dim) each."""
        return self._kv[layer, 0], self._kv[layer, 1]

    def rotate_and_attend(
        self, layer: int, qkv: Tensor, norms: HeadNorms | None, cos: Tensor, sin: Tensor, kernels: Kernels
    ) -> Tensor:
        """Rotate a layer's heads, store keys and values, and attend.

        Args:
            layer: Number of the layer.
            qkv: (tokens, heads + 2 * KV heads, head_dim), as projected; it may be overwritten.
            norms: Of query and key heads, or None.
            cos: (tokens, 1, head_dim / 2), see ``Kernels.rotate_and_store``.
            sin: The same.
            kernels: The layer's.

        Returns:
            (tokens, heads, head_dim).
        """
        q = kernels.rotate_and_store(qkv, norms, cos, sin, *self.kv(layer), self.slots)
        return self.attend(layer, q)

    @abstractmethod
    def attend(self, layer: int, q: Tensor) -> Tensor:
        """Attend causally over each sequence's KV, the step's own stored already.

        Args:
            layer: Number of the layer.
            q: (tokens, heads, head_dim), rotated; tokens of all sequences, in their order.

        Returns:
            (tokens, heads, head_dim).
        """


class Attention(ABC):
    """An attention backend over a KV pool."""

    @abstractmethod
    def plan(self, metadata: AttentionMetadata) -> AttentionStep:
        """Prepare a step: what all layers share."""


class ChunkedLimits(NamedTuple):
    """What a captured step with chunks has room for.

    Attributes:
        tokens: Of all.
        chunks: Sequences that compute a chunk.
        chunk_pages: Pages that these read, all together.
        decodes: Sequences that decode.
    """

    tokens: int
    chunks: int
    chunk_pages: int
    decodes: int


class GraphStep(AttentionStep):
    """Decode of a fixed number of sequences; see :meth:`GpuAttention.graph_step`."""

    @abstractmethod
    def plan(self, lengths: IntArray, pages: npt.NDArray[np.int32]) -> None:
        """Prepare the next run, without waiting for the one before.

        Args:
            lengths: (size,) tokens that each sequence attends to.
            pages: (size, columns) pages of each one's row; behind its length they mean nothing.
        """


class GpuAttention(Attention):
    """An attention backend whose decodes can be captured in CUDA graphs.

    Where a batch is small there may be two of a size, :meth:`graph_step` and :meth:`fused_step`, over the same tables.

    Attributes:
        kv: (layers, 2, slots, KV heads, head_dim): the KV pool, keys at 0 and values at 1.
        page_size: Tokens a page.
    """

    kv: Tensor
    page_size: int

    @property
    def padding_page(self) -> int:
        """The pool's last page, for steps of no sequence: an engine's pool has one more than its scheduler knows."""
        return self.kv.shape[2] // self.page_size - 1

    @abstractmethod
    def graph_step(self, size: int, slots: Tensor, tables: Tensor) -> GraphStep:
        """A decode step of fixed size, to capture in a CUDA graph and to plan anew before each replay.

        Args:
            size: Sequences.
            slots: (size,) int64 on the device, at an address that stays.
            tables: int32 on the device, :meth:`table_entries` long at least; steps that run in turn may share it.
        """

    def fused_step(self, size: int, slots: Tensor, tables: Tensor) -> GraphStep | None:  # noqa: ARG002
        """The same, each layer in one kernel, for decodes of little KV; None where a backend has no such kernel.

        See :func:`runtime.scheduler.graph_sizes.decodes_fused`.
        """
        return None

    @abstractmethod
    def table_entries(self, size: int, columns: int) -> int:
        """Entries of a graph step's tables.

        Args:
            size: Sequences.
            columns: Pages of the longest.
        """

"""What a model needs of attention, and what an attention backend is told of a step."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

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
    """Attention for one step, planned; the forward pass is handed it."""

    @abstractmethod
    def forward(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store the step's keys and values in the KV pool, then attend causally over each sequence's KV.

        Args:
            layer: Number of the layer.
            q: (tokens, heads, head_dim), rotated; tokens of all sequences, in their order.
            k: (tokens, KV heads, head_dim), rotated.
            v: The same shape.

        Returns:
            (tokens, heads, head_dim).
        """


class Attention(ABC):
    """An attention backend over a KV pool."""

    @abstractmethod
    def plan(self, metadata: AttentionMetadata) -> AttentionStep:
        """Prepare a step: what all layers share."""

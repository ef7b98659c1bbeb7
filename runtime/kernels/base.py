"""What layers ask of a set of kernels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor


class HeadNorms(NamedTuple):
    """RMSNorm of each query and each key head (Qwen3).

    Attributes:
        q: (head_dim,) weight for query heads.
        k: (head_dim,) weight for key heads.
        eps: Added to the mean square.
    """

    q: Tensor
    k: Tensor
    eps: float


class Kernels(ABC):
    """Operations between matrix products. Each may overwrite the activations that it is given."""

    @abstractmethod
    def rms_norm(self, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        """Scale each row to a root mean square of 1 (arXiv 1910.07467): (..., width) to the same, ``x`` kept."""

    @abstractmethod
    def add_rms_norm(self, x: Tensor, residual: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """``residual + x``, normalised, and the sum itself, both (tokens, width)."""

    @abstractmethod
    def silu_and_mul(self, x: Tensor) -> Tensor:
        """SwiGLU's gate (arXiv 2002.05202): (..., 2 * width), gate and up side by side, to (..., width)."""

    @abstractmethod
    def rotate_and_store(
        self,
        qkv: Tensor,
        norms: HeadNorms | None,
        cos: Tensor,
        sin: Tensor,
        keys: Tensor,
        values: Tensor,
        slots: Tensor,
    ) -> Tensor:
        """Normalise and rotate the query and key heads of a step, and store keys and values in the KV pool.

        Args:
            qkv: (tokens, heads + 2 * KV heads, head_dim): query, key, value heads.
            norms: Of query and key heads, or None.
            cos: (tokens, 1, head_dim / 2); dimension i turns with i + head_dim / 2 (RoFormer, arXiv 2104.09864, in
                Hugging Face's order).
            sin: The same.
            keys: (slots, KV heads, head_dim): a layer's keys in the KV pool.
            values: The same.
            slots: (tokens,) int64: where each token's KV goes.

        Returns:
            (tokens, heads, head_dim): rotated query heads, perhaps a view of ``qkv``.
        """

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


class Weight(NamedTuple):
    """The weights of a matrix product, or of one for each expert.

    Attributes:
        values: (..., outputs, inputs), fp8 (e4m3) where there are scales.
        scales: (..., outputs) float32: what an output's values are to be multiplied by; None for plain ones.
    """

    values: Tensor
    scales: Tensor | None


class Kernels(ABC):
    """What layers compute. Each operation may overwrite the activations that it is given."""

    @abstractmethod
    def linear(self, x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
        """(..., inputs) to (..., outputs); with fp8 weights, each row of ``x`` is rounded to fp8 by its own scale."""

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

    @abstractmethod
    def route(self, scores: Tensor, chosen: int, *, normalise: bool) -> tuple[Tensor, Tensor]:
        """Choose each token's likeliest experts.

        Args:
            scores: (tokens, experts).
            chosen: Experts of a token.
            normalise: Whether the chosen ones' weights are scaled to sum to 1.

        Returns:
            (tokens, chosen) which, likeliest first, and (tokens, chosen) float32: how much of each, by softmax.
        """

    @abstractmethod
    def experts(self, x: Tensor, experts: Tensor, weights: Tensor, gate_up: Weight, down: Weight) -> Tensor:
        """The weighted sum of what each token's experts, SwiGLU blocks, make of it.

        Args:
            x: (tokens, hidden_size).
            experts: (tokens, chosen), as :meth:`route` gives them, and so the next.
            weights: (tokens, chosen).
            gate_up: (experts, 2 * width, hidden_size).
            down: (experts, hidden_size, width).

        Returns:
            (tokens, hidden_size).
        """

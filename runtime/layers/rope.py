"""Rotary position embeddings (RoFormer, arXiv 2104.09864), with Llama 3.1's scaling."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from runtime.layers.parts import Module, Placement
from runtime.models.config import Llama3Scaling


class Rotation(NamedTuple):
    """What the positions of one step turn heads by; made once a step, used by every layer.

    Attributes:
        cos: (tokens, 1, head_dim / 2).
        sin: The same.
    """

    cos: Tensor
    sin: Tensor


class RotaryEmbedding(Module):
    """Positions to rotations.

    Args:
        head_dim: Width of a head.
        theta: Base of the wavelengths.
        scaling: Llama 3.1's, or None.
    """

    def __init__(self, placement: Placement, head_dim: int, theta: float, scaling: Llama3Scaling | None) -> None:
        super().__init__()
        exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
        frequencies = 1.0 / theta**exponents
        if scaling is not None:
            frequencies = scale_frequencies(frequencies, scaling)
        self._frequencies = frequencies.to(placement.device)
        self._dtype = placement.dtype

    def forward(self, positions: Tensor) -> Rotation:
        """(tokens,) positions to their rotation."""
        angles = (positions.float().unsqueeze(-1) * self._frequencies).unsqueeze(1)
        return Rotation(angles.cos().to(self._dtype), angles.sin().to(self._dtype))


def scale_frequencies(frequencies: Tensor, scaling: Llama3Scaling) -> Tensor:
    """Llama 3.1's scaling of rotary frequencies, radians a token."""
    turns = scaling.original_max_position_embeddings * frequencies / (2 * math.pi)
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    kept = ((turns - low) / (high - low)).clamp(0, 1)
    return frequencies * (kept + (1 - kept) / scaling.factor)

"""Numbers of 8 bits (e4m3, arXiv 2209.05433), with a scale for each row."""

from __future__ import annotations

import torch
from torch import Tensor

FP8 = torch.float8_e4m3fn
LARGEST = 448.0
"""The largest number of the format."""


def to_fp8(x: Tensor) -> Tensor:
    """Round; what is larger than the largest becomes the largest."""
    return x.float().clamp(-LARGEST, LARGEST).to(FP8)


def as_bytes(x: Tensor) -> Tensor:
    """A view of fp8 numbers as bytes, which every device can index; other dtypes as they are."""
    return x.view(torch.uint8) if x.dtype == FP8 else x


def quantize(x: Tensor) -> tuple[Tensor, Tensor]:
    """Round each row by a scale that makes its largest number the format's.

    Args:
        x: (..., width).

    Returns:
        The same in fp8, and (...) float32 scales, by which it is to be multiplied.
    """
    scales = x.float().abs().amax(dim=-1).clamp(min=1e-12) / LARGEST
    return to_fp8(x.float() / scales.unsqueeze(-1)), scales

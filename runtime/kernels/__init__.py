"""What layers compute: a PyTorch reference for any device, fused Triton ones for GPUs."""

from __future__ import annotations

from functools import cache

import torch

from runtime.kernels.base import HeadNorms, Kernels, Weight
from runtime.kernels.reference import TorchKernels

__all__ = ["HeadNorms", "Kernels", "TorchKernels", "Weight", "kernels_for"]


@cache
def kernels_for(device_type: str, dtype: torch.dtype) -> Kernels:
    """The kernels of a kind of device: fused ones for half precision on a GPU, else the reference.

    Args:
        device_type: ``cpu`` or ``cuda``.
        dtype: Of weights and activations.
    """
    if device_type == "cuda" and dtype != torch.float32:
        from runtime.kernels.fused import FusedKernels  # Triton is not there on a machine without a GPU

        return FusedKernels(overlap_launch=torch.cuda.get_device_capability() >= (9, 0))
    return TorchKernels()

"""Between host and device without waiting: pinned memory one way, an event the other."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def to_device(device: torch.device, *arrays: npt.NDArray[np.generic]) -> list[Tensor]:
    """Arrays of one dtype to the device, in one copy that the current stream makes in its turn.

    The host's side may be changed or dropped at once.

    Args:
        device: Where to.
        arrays: Of any shapes, one dtype.

    Returns:
        Tensors of the same shapes, parts of one.
    """
    flat = [torch.from_numpy(np.ascontiguousarray(array)).view(-1) for array in arrays]
    sizes = [len(part) for part in flat]
    # Pinned memory comes from a cache that gives it out again when the copy is done.
    host = torch.empty(sum(sizes), dtype=flat[0].dtype, pin_memory=device.type == "cuda")
    torch.cat(flat, out=host)
    parts = torch.split(host.to(device, non_blocking=True), sizes)
    return [part.view(array.shape) for part, array in zip(parts, arrays, strict=True)]


def to_host(tensor: Tensor) -> Tensor:
    """A copy of a device's tensor in pinned memory, there when the current stream has come to it."""
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)

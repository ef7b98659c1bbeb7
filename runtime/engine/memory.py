"""KV memory on the device: how many pages, and the tensor that holds them."""

from __future__ import annotations

import torch
from torch import Tensor

from runtime.layers.attention import local_kv_heads
from runtime.layers.parts import Placement
from runtime.models.config import ModelConfig


class KvMemoryError(ValueError):
    """There is no room for KV; the message has the numbers."""


def page_bytes(config: ModelConfig, *, page_size: int, ranks: int, dtype: torch.dtype) -> int:
    """Bytes that a page takes on each rank: keys and values of all layers."""
    heads = local_kv_heads(config, ranks)
    return 2 * config.num_hidden_layers * page_size * heads * config.head_dim * dtype.itemsize


def pages_that_fit(*, total_bytes: int, used_bytes: int, workspace_bytes: int, fraction: float, page_bytes: int) -> int:
    """Pages for which a device has room.

    Args:
        total_bytes: Memory of the device.
        used_bytes: Of that, taken: weights, other processes.
        workspace_bytes: Kept for activations and libraries.
        fraction: Of the device's memory, how much may be used in all, in (0, 1].
        page_bytes: Of one page.

    Raises:
        KvMemoryError: Not even one fits.
    """
    if not 0 < fraction <= 1:
        raise KvMemoryError(f"engine.memory_fraction={fraction}: over 0, at most 1")
    room = int(total_bytes * fraction) - used_bytes - workspace_bytes
    if room < page_bytes:
        gib = 2.0**30
        raise KvMemoryError(
            f"no room for KV: {fraction:g} of {total_bytes / gib:.2f} GiB, less {used_bytes / gib:.2f} GiB in use and "
            f"{workspace_bytes / gib:.2f} GiB of workspace, leaves {max(room, 0) / gib:.2f} GiB and a page takes "
            f"{page_bytes / gib:.4f} GiB; raise engine.memory_fraction or tp, or take a smaller model"
        )
    return room // page_bytes


def kv_pool(config: ModelConfig, placement: Placement, *, pages: int, page_size: int) -> Tensor:
    """The KV pool: (layers, 2, pages * page_size, this rank's KV heads, head_dim), keys at 0 and values at 1."""
    heads = local_kv_heads(config, placement.communicator.size)
    shape = (config.num_hidden_layers, 2, pages * page_size, heads, config.head_dim)
    return torch.zeros(shape, dtype=placement.kv_dtype, device=placement.device)


def pages_on_gpu(
    config: ModelConfig, placement: Placement, workspace_bytes: int, *, page_size: int, fraction: float
) -> int:
    """Pages for which every rank's GPU has room, beside what is there now; all ranks call it together.

    Args:
        config: The model's shape.
        placement: Where it is.
        workspace_bytes: Kept for what is still to come.
        page_size: Tokens a page.
        fraction: See :func:`pages_that_fit`.

    Raises:
        KvMemoryError: There is no room, on any rank.
    """
    free_bytes, total_bytes = torch.cuda.mem_get_info(placement.device)
    size = page_bytes(config, page_size=page_size, ranks=placement.communicator.size, dtype=placement.kv_dtype)
    sizes = torch.tensor([total_bytes - free_bytes, -total_bytes], device=placement.device)
    # Every rank counts as the fullest does, so that all go on or none.
    used_bytes, total_bytes = placement.communicator.all_gather(sizes[:, None]).amax(dim=1).tolist()
    return pages_that_fit(
        total_bytes=-total_bytes,
        used_bytes=used_bytes,
        workspace_bytes=workspace_bytes,
        fraction=fraction,
        page_bytes=size,
    )

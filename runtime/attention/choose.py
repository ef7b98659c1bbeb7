"""Which attention backend runs: by name, or what is fastest of those that are here."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from runtime.attention.base import GpuAttention
from runtime.attention.small_decodes import SmallDecodes
from runtime.attention.split import SplitAttention
from runtime.layers.parts import Placement

if TYPE_CHECKING:
    from runtime.attention.triton import TritonAttention

NAMES = ("flashinfer", "triton", "torch")


class AttentionError(ValueError):
    """An attention backend that cannot run here; the message names the knob, the value and the way out."""


class AttentionChoice(NamedTuple):
    """Backends by their names.

    Attributes:
        prefill: For sequences that compute a chunk of their prompt.
        decode: For those that compute one token.
        small_decodes: For captured decodes of few sequences and little KV, see
            :func:`runtime.scheduler.graph_sizes.decodes_fused`; None where those are decodes as all others.
    """

    prefill: str
    decode: str
    small_decodes: str | None = None


def choose_attention(name: str, placement: Placement, head_dim: int) -> AttentionChoice:
    """Read the knob, and check that what it asks for can run.

    Args:
        name: ``flashinfer``, ``triton``, ``torch``; two of the first for prefill and decode, as in
            ``flashinfer+triton``; or ``auto``: FlashInfer where its kernels are compiled, but for captured decodes
            of little KV Triton from Hopper on; else Triton on a GPU, else PyTorch.
        placement: Device, and dtypes of activations and KV.
        head_dim: Width of a head.

    Raises:
        AttentionError: There is no such backend, or it cannot run there.
    """
    on_gpu = placement.device.type == "cuda" and placement.dtype != torch.float32
    if name == "auto":
        if on_gpu and _flashinfer_is_compiled(placement, head_dim):
            on_hopper = torch.cuda.get_device_capability(placement.device) >= (9, 0)
            return AttentionChoice("flashinfer", "flashinfer", small_decodes="triton" if on_hopper else None)
        best = "triton" if on_gpu else "torch"
        return AttentionChoice(best, best)
    parts = name.split("+")
    if len(parts) > 2 or not set(parts) <= set(NAMES):
        raise AttentionError(
            f"backend.attention={name}: auto, {', '.join(NAMES)}, or PREFILL+DECODE such as flashinfer+triton"
        )
    choice = AttentionChoice(parts[0], parts[-1])
    if set(parts) == {"torch"}:
        return choice
    if "torch" in choice:
        raise AttentionError(f"backend.attention={name}: torch runs outside of CUDA graphs, and so for both or neither")
    if not on_gpu:
        dtype = str(placement.dtype).removeprefix("torch.")
        raise AttentionError(
            f"backend.attention={name}: it needs half precision on a GPU, not {dtype} on {placement.device.type}; "
            "take auto"
        )
    if "flashinfer" in choice:
        if placement.kv_dtype != placement.dtype:
            raise AttentionError(
                f"backend.attention={name}: its kernels read KV of the activations' dtype; take triton with "
                "backend.kv_dtype=fp8"
            )
        if find_spec("flashinfer") is None:
            raise AttentionError(
                f"backend.attention={name}: FlashInfer is not installed: pip install 'servetwin[cuda]', or take triton"
            )
    return choice


def gpu_attention(choice: AttentionChoice, kv: Tensor, page_size: int, heads: int) -> GpuAttention:
    """The backends chosen, over a KV pool on a GPU.

    Args:
        choice: Without ``torch``.
        kv: (layers, 2, slots, KV heads, head_dim): the KV pool.
        page_size: Tokens a page.
        heads: Query heads of this rank.
    """
    decode = _make(choice.decode, kv, page_size, heads)
    if choice.small_decodes:
        decode = SmallDecodes(_make(choice.small_decodes, kv, page_size, heads), decode)
    if choice.prefill == choice.decode:
        return decode
    return SplitAttention(_make(choice.prefill, kv, page_size, heads), decode)


def chunked_attention(kv: Tensor, page_size: int, heads: int) -> TritonAttention:
    """The one backend whose steps with chunks can be captured in CUDA graphs.

    Args:
        kv: (layers, 2, slots, KV heads, head_dim): the KV pool, on a GPU.
        page_size: Tokens a page.
        heads: Query heads of this rank.
    """
    from runtime.attention.triton import TritonAttention

    return TritonAttention(kv, page_size, heads)


def _make(name: str, kv: Tensor, page_size: int, heads: int) -> GpuAttention:
    # Neither is there on a machine without a GPU.
    if name == "flashinfer":
        from runtime.attention.flashinfer import FlashInferAttention

        return FlashInferAttention(kv, page_size, heads)
    return chunked_attention(kv, page_size, heads)


def _flashinfer_is_compiled(placement: Placement, head_dim: int) -> bool:
    """Whether FlashInfer can run at once: it compiles a kernel at first use, for minutes, and needs a compiler."""
    if placement.kv_dtype != placement.dtype or find_spec("flashinfer") is None:
        return False
    from runtime.attention.flashinfer import is_compiled

    return is_compiled(placement.dtype, head_dim)

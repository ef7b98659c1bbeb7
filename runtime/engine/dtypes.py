"""The words by which weights and KV are asked for, the cost model's own: ``bf16``, ``fp8``, ``fp32``."""

from __future__ import annotations

import torch

WORDS = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}
_FP8 = "fp8"
_FP8_CAPABILITY = (8, 9)


class DtypeError(ValueError):
    """A dtype that a device or a model cannot have; the message names the knob, the value and the way out."""


def placement_dtypes(
    weight_dtype: str | None, kv_dtype: str | None, dtype: torch.dtype, device: torch.device
) -> dict[str, bool]:
    """What a :class:`runtime.layers.parts.Placement` is to be told.

    Args:
        weight_dtype: ``fp8``, the word for ``dtype``, or None for ``dtype``.
        kv_dtype: The same choices.
        dtype: Of activations.
        device: Where they are.

    Raises:
        DtypeError: A word is another, or the device has no fp8.
    """
    chosen = {}
    for name, knob, word in (("fp8_weights", "weight_dtype", weight_dtype), ("fp8_kv", "kv_dtype", kv_dtype)):
        if word not in (None, _FP8, WORDS[dtype]):
            raise DtypeError(f"backend.{knob}={word}: fp8, or null for backend.dtype's {WORDS[dtype]}")
        chosen[name] = word == _FP8
        if chosen[name] and device.type == "cuda":
            _check_gpu(knob, dtype, device)
    return chosen


def _check_gpu(knob: str, dtype: torch.dtype, device: torch.device) -> None:
    capability = torch.cuda.get_device_capability(device)
    if capability < _FP8_CAPABILITY:
        raise DtypeError(
            f"backend.{knob}=fp8: {torch.cuda.get_device_name(device)} has compute capability "
            f"{capability[0]}.{capability[1]}, fp8 needs 8.9 (Ada, Hopper); take null"
        )
    if knob == "weight_dtype" and dtype != torch.bfloat16:
        raise DtypeError(f"backend.{knob}=fp8: products with scales want bf16 activations; set backend.dtype=bfloat16")

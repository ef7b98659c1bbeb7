"""What no engine beats: a step's bytes over the memory's bandwidth, and its FLOPs over the peak."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from harness.cost.model import DTYPE_BYTES

if TYPE_CHECKING:
    from harness.cost.hardware import Hardware
    from harness.cost.model import ModelShape

Counts = TypeVar("Counts", float, npt.NDArray[np.float64])


class Floor:
    """The least seconds of a step on one of ``tp`` devices.

    Each weight is read once, of an MoE layer's those that one token touches; KV is read once; nothing is counted for
    activations, communication and padding.

    Args:
        model: What is computed.
        hardware: One of the devices.
        tp: Tensor parallelism.
        weight_dtype: As of :class:`harness.cost.roofline.Roofline`.
        kv_dtype: The same.
    """

    def __init__(self, model: ModelShape, hardware: Hardware, tp: int, weight_dtype: str, kv_dtype: str) -> None:
        sizes = model.weight_bytes(weight_dtype, tp)
        touched = model.experts_per_token / model.experts if model.experts else 0.0
        layers_bytes = sizes["attention"] + sizes["mlp"] + sizes["router"] + touched * sizes["experts"]
        counts = model.parameters_by_component(tp)
        narrow = counts["attention"] + counts["mlp"] + touched * counts["experts"]
        peak = hardware.peak_for(weight_dtype)
        wide_peak = hardware.peak_for("fp32" if weight_dtype == "fp32" else "bf16")
        head = model.hidden_size * -(-model.vocab_size // tp)
        pair = model.layers * 4 * (model.query_size // tp)
        bandwidth = hardware.memory_bandwidth
        self._weights_s = layers_bytes / bandwidth
        self._head_bytes_s = head * max(2, DTYPE_BYTES[weight_dtype]) / bandwidth
        self._context_s = model.kv_bytes_per_token(tp, kv_dtype) / bandwidth
        self._row_s = 2 * narrow / peak + 2 * counts["router"] / wide_peak
        self._sampled_s = 2 * head / wide_peak
        self._pair_s = pair / wide_peak

    def memory_s(self, sampled: bool, context: Counts) -> Counts:
        """Seconds to read the weights (the LM head's too where a row is sampled) and ``context`` tokens of KV."""
        weights_s = self._weights_s + self._head_bytes_s if sampled else self._weights_s
        return weights_s + self._context_s * context

    def compute_s(self, rows: Counts, sampled: Counts, pairs: Counts) -> Counts:
        """Seconds to compute rows of the layers, rows of the LM head and query-key pairs."""
        return self._row_s * rows + self._sampled_s * sampled + self._pair_s * pairs

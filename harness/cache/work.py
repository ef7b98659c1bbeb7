"""Floating-point operations of a prefill: what a cached prefix saves."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from harness.cost.model import ModelShape
    from traces.schema import FloatArray, IntArray


def prefill_flops(model: ModelShape, tokens: IntArray) -> FloatArray:
    """Operations to compute the KV of the first tokens of a prompt.

    Two for each weight that a token passes (of an MoE layer, of the experts it is routed to), and four times the width
    of all query heads for each layer and each pair of a token with itself or one before it. The LM head is left out: it
    runs for the last token, which is never cached.

    Args:
        model: The model's shape.
        tokens: Any shape.

    Returns:
        Operations, of the same shape.
    """
    weights = model.parameters_by_component()
    passed = float(weights["attention"] + weights["mlp"] + weights["router"])
    if model.experts:
        passed += weights["experts"] * model.experts_per_token / model.experts
    count = tokens.astype(np.float64)
    pairs = count * (count + 1) / 2
    flops: FloatArray = 2 * passed * count + 4 * model.layers * model.query_size * pairs
    return flops

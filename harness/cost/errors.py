"""What can be wrong with a model, a hardware or a cost configuration: one clear line each."""

from __future__ import annotations


class CostError(ValueError):
    """The user's mistake in what a cost model is made from; the message names the knob and the way out."""


class CostConfigError(CostError):
    """A field of a model, hardware or cost configuration is missing, unknown or out of range."""


class ModelDoesNotFit(CostError):  # noqa: N818 (a finding with its numbers, not a malfunction)
    """Weights and workspace leave no room for KV on the given hardware."""

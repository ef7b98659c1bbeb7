"""What can be wrong with a model: one clear line each."""

from __future__ import annotations


class ModelError(ValueError):
    """A model cannot be served; the message names what is wrong with it and the way out."""


class ModelConfigError(ModelError):
    """A model's configuration is missing, malformed, or asks for what is not supported."""


class WeightsError(ModelError):
    """A checkpoint's files or tensors are not what the model's configuration says."""


class ParallelError(ModelError):
    """A model cannot be divided over so many ranks."""

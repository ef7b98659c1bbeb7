"""Shortest job first."""

from __future__ import annotations

from policies.order.base import Order
from policies.views import SequenceView


class Sjf(Order):
    """Shortest job first, by predicted output tokens and, in part, by the prompt.

    Args:
        prompt_weight: What a prompt token counts, in output tokens.
    """

    def __init__(self, prompt_weight: float = 0.0) -> None:
        self._prompt_weight = prompt_weight

    def key(self, sequence: SequenceView) -> float:
        return sequence.predicted_tokens + self._prompt_weight * sequence.prompt_tokens

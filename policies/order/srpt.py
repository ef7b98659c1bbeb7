"""Shortest remaining processing time."""

from __future__ import annotations

from policies.order.base import Order
from policies.views import SequenceView


class Srpt(Order):
    """Shortest remaining processing time first, by predicted output tokens (Schrage, Operations Research 1968).

    As published it also interrupts whoever runs when a shorter job comes. This scheduler interrupts no one but when KV
    runs out: here SRPT says who is admitted, and ``policy/preemption=longest_remaining`` who then makes room. A
    preempted sequence has only its rest to go and is ranked by that.

    Args:
        prompt_weight: What a token to prefill counts, in output tokens; a preempted sequence prefills its output again.
    """

    def __init__(self, prompt_weight: float = 0.0) -> None:
        self._prompt_weight = prompt_weight

    def key(self, sequence: SequenceView) -> float:
        produced = sequence.total - sequence.prompt_tokens
        return max(sequence.predicted_tokens - produced, 1) + self._prompt_weight * sequence.total

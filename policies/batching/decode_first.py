"""Decode until nothing is left to decode."""

from __future__ import annotations

from policies.batching.base import DECODE, Batching, StepPlan, positive
from policies.views import SchedulerView


class DecodeFirst(Batching):
    """Decode until nothing is left to decode, then admit the next batch (request-level batching: FasterTransformer).

    Args:
        step_tokens: Prompt tokens in a prefill step.
    """

    def __init__(self, step_tokens: int = 8192) -> None:
        self.step_tokens = positive("policy.batching.step_tokens", step_tokens)
        self._prefill = StepPlan(prefill_tokens=step_tokens, decode=False)

    def plan(self, scheduler: SchedulerView, now: float) -> tuple[StepPlan, ...]:
        del now
        # A prefill in several steps goes on to its end: its first sequences must not shut out the rest of the batch.
        if scheduler.prefilling_sequences:
            return (self._prefill, DECODE)
        return (DECODE, self._prefill)

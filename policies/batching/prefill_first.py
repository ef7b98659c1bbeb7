"""Prefill whenever anything can be prefilled."""

from __future__ import annotations

from policies.batching.base import DECODE, Batching, StepPlan, positive
from policies.views import SchedulerView


class PrefillFirst(Batching):
    """Prefill whenever anything can be prefilled, else decode (Orca's default; mini-sglang, SGLang).

    Decoding stalls while prompts keep coming; ``max_prefill_steps`` bounds that.

    Args:
        step_tokens: Prompt tokens in a prefill step; a longer prompt is computed in chunks.
        max_prefill_steps: The most prefill steps in a row while something decodes; 0 for no bound.
    """

    def __init__(self, step_tokens: int = 8192, max_prefill_steps: int = 0) -> None:
        self.step_tokens = positive("policy.batching.step_tokens", step_tokens)
        self.steady = max_prefill_steps == 0
        self._max_prefill_steps = max_prefill_steps
        self._prefill_steps = 0
        self._plans = (StepPlan(prefill_tokens=step_tokens, decode=False), DECODE)

    def plan(self, scheduler: SchedulerView, now: float) -> tuple[StepPlan, ...]:
        del now
        if not self._max_prefill_steps:
            return self._plans
        if self._prefill_steps >= self._max_prefill_steps and scheduler.decoding_sequences:
            self._prefill_steps = 0
            return self._plans[::-1]
        wanted = scheduler.waiting_sequences + scheduler.prefilling_sequences
        self._prefill_steps = self._prefill_steps + 1 if wanted else 0
        return self._plans

"""Chunks of prompts beside every decode."""

from __future__ import annotations

from policies.batching.base import Batching, StepPlan, positive
from policies.views import SchedulerView


class Chunked(Batching):
    """Every decoding sequence plus chunks of prompts in one step of bounded size.

    Sarathi-Serve (Agrawal et al., OSDI 2024); vLLM v1.

    Args:
        step_tokens: Tokens in a step, decode and prefill together.
    """

    def __init__(self, step_tokens: int = 2048) -> None:
        self.step_tokens = positive("policy.batching.step_tokens", step_tokens)
        self._plans = (StepPlan(prefill_tokens=step_tokens, decode=True, shared=True),)

    def plan(self, scheduler: SchedulerView, now: float) -> tuple[StepPlan, ...]:
        del scheduler, now
        return self._plans

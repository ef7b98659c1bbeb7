"""Batching: how prefill and decode share a step, and the step's token budget."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from policies.errors import PolicyError
from policies.views import SchedulerView


@dataclass(frozen=True, slots=True)
class StepPlan:
    """What a step may hold.

    Attributes:
        prefill_tokens: The most prompt tokens; with ``shared`` the decode tokens count against it too.
        decode: Whether decoding sequences take part.
        shared: Whether ``prefill_tokens`` is the budget of the whole step.
    """

    prefill_tokens: int
    decode: bool
    shared: bool = False


class Batching(ABC):
    """Plans the next step.

    Attributes:
        steady: Whether the plan depends only on how many sequences wait, prefill and decode. The simulator may then
            repeat a decode step without asking again; set it False for a policy with a memory or a clock.
        step_tokens: The most prompt tokens in a step under any plan.
    """

    steady: bool = True
    step_tokens: int

    @abstractmethod
    def plan(self, scheduler: SchedulerView, now: float) -> tuple[StepPlan, ...]:
        """Plans in order of preference: the first that yields a batch is the step."""


DECODE = StepPlan(prefill_tokens=0, decode=True)


def _positive(name: str, value: int) -> int:
    if value < 1:
        raise PolicyError(f"{name}={value}: a step needs room for at least 1 token; try {name}=2048")
    return value


class PrefillFirst(Batching):
    """Prefill whenever anything can be prefilled, else decode (Orca's default; mini-sglang, SGLang).

    Decoding stalls while prompts keep coming; ``max_prefill_steps`` bounds that.

    Args:
        step_tokens: Prompt tokens in a prefill step; a longer prompt is computed in chunks.
        max_prefill_steps: The most prefill steps in a row while something decodes; 0 for no bound.
    """

    def __init__(self, step_tokens: int = 8192, max_prefill_steps: int = 0) -> None:
        self.step_tokens = _positive("policy.batching.step_tokens", step_tokens)
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


class DecodeFirst(Batching):
    """Decode until nothing is left to decode, then admit the next batch (request-level batching: FasterTransformer).

    Args:
        step_tokens: Prompt tokens in a prefill step.
    """

    def __init__(self, step_tokens: int = 8192) -> None:
        self.step_tokens = _positive("policy.batching.step_tokens", step_tokens)
        self._prefill = StepPlan(prefill_tokens=step_tokens, decode=False)

    def plan(self, scheduler: SchedulerView, now: float) -> tuple[StepPlan, ...]:
        del now
        # A prefill in several steps goes on to its end: its first sequences must not shut out the rest of the batch.
        if scheduler.prefilling_sequences:
            return (self._prefill, DECODE)
        return (DECODE, self._prefill)


class Chunked(Batching):
    """Every decoding sequence plus chunks of prompts in one step of bounded size.

    Sarathi-Serve (Agrawal et al., OSDI 2024); vLLM v1.

    Args:
        step_tokens: Tokens in a step, decode and prefill together.
    """

    def __init__(self, step_tokens: int = 2048) -> None:
        self.step_tokens = _positive("policy.batching.step_tokens", step_tokens)
        self._plans = (StepPlan(prefill_tokens=step_tokens, decode=True, shared=True),)

    def plan(self, scheduler: SchedulerView, now: float) -> tuple[StepPlan, ...]:
        del scheduler, now
        return self._plans

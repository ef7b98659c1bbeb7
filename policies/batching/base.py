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
        steady: Whether the plan, the budget aside, depends only on how many sequences wait, prefill and decode. The
            simulator may then repeat a decode step without asking again; set it False for a policy with a memory or a
            clock.
        fixed_budget: Whether the budget depends on nothing else either: set it False for a budget that changes as
            decoding sequences grow, so that who does not fit into it now may fit later.
        step_tokens: The most prompt tokens in a step under any plan.
    """

    steady: bool = True
    fixed_budget: bool = True
    step_tokens: int

    @abstractmethod
    def plan(self, scheduler: SchedulerView, now: float) -> tuple[StepPlan, ...]:
        """Plans in order of preference: the first that yields a batch is the step."""


DECODE = StepPlan(prefill_tokens=0, decode=True)


def positive(name: str, value: int) -> int:
    """A budget of tokens.

    Raises:
        PolicyError: There is no room in it.
    """
    if value < 1:
        raise PolicyError(f"{name}={value}: a step needs room for at least 1 token; try {name}=2048")
    return value

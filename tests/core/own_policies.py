"""Policies of our own, found by dotted path: erratic on purpose, so that the core is proved under any decision."""

from __future__ import annotations

from collections.abc import Sequence

from policies.batching import Batching, StepPlan
from policies.eviction import LeafHeap
from policies.hashing import mix
from policies.order import DynamicOrder
from policies.preemption import Preemption
from policies.views import CacheNode, SchedulerView, SequenceView


class ErraticOrder(DynamicOrder):
    """Another order at every decision."""

    def __init__(self, seed: int = 0) -> None:
        self._seed, self._asked = seed, 0

    def arrange(self, waiting: Sequence[SequenceView], scheduler: SchedulerView, now: float) -> list[SequenceView]:
        self._asked += 1
        return sorted(waiting, key=lambda sequence: mix(self._seed, self._asked, sequence.ordinal))


class WatchfulOrder(DynamicOrder):
    """The order of arrival, where everyone who comes and goes is told of, once and in turn."""

    def __init__(self) -> None:
        self.runs: dict[int, bool] = {}  # whether they do, of all who are here, by ordinal

    def queued(self, sequence: SequenceView) -> None:
        assert sequence.ordinal not in self.runs
        self.runs[sequence.ordinal] = False

    def admitted(self, sequence: SequenceView) -> None:
        assert self.runs[sequence.ordinal] is False
        assert sequence.computed == sequence.cached < sequence.total
        self.runs[sequence.ordinal] = True

    def left(self, sequence: SequenceView) -> None:
        del self.runs[sequence.ordinal]

    def arrange(self, waiting: Sequence[SequenceView], scheduler: SchedulerView, now: float) -> list[SequenceView]:
        assert [s.ordinal for s in waiting] == sorted(ordinal for ordinal, runs in self.runs.items() if not runs)
        return list(waiting)


class ErraticBatching(Batching):
    """Another plan at every step."""

    steady = False

    def __init__(self, step_tokens: int = 8, seed: int = 0) -> None:
        self.step_tokens = step_tokens
        self._seed, self._asked = seed, 0

    def plan(self, scheduler: SchedulerView, now: float) -> tuple[StepPlan, ...]:
        self._asked += 1
        dice = mix(self._seed, self._asked)
        budget = 1 + dice % self.step_tokens
        first = StepPlan(budget, decode=bool(dice >> 32 & 1), shared=bool(dice >> 33 & 1))
        return (first, StepPlan(0, decode=True), StepPlan(self.step_tokens, decode=False))


class ErraticPreemption(Preemption):
    """Another victim every time."""

    def __init__(self, seed: int = 0) -> None:
        self._seed, self._asked = seed, 0

    def victim(self, running: Sequence[SequenceView]) -> SequenceView:
        self._asked += 1
        return running[mix(self._seed, self._asked) % len(running)]


class MostRecentlyUsed(LeafHeap):
    """The leaf released last."""

    def __init__(self) -> None:
        super().__init__()
        self._released = 0

    def priority(self, node: CacheNode) -> float:
        self._released += 1
        return -self._released


class NotAPolicy:
    """What no part of a policy accepts."""

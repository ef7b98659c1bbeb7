"""Order: which waiting sequence is admitted next."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from policies.hashing import uniform
from policies.views import SchedulerView, SequenceView


class Order(ABC):
    """Ranks waiting sequences by a key that is fixed while they wait: smallest first, then by ``ordinal``."""

    @abstractmethod
    def key(self, sequence: SequenceView) -> float:
        """The sequence's rank; asked once, when it is queued (and again after a preemption)."""


class DynamicOrder(ABC):
    """Ranks waiting sequences anew at every decision, for ranks that change while they wait."""

    @abstractmethod
    def arrange(self, waiting: Sequence[SequenceView], scheduler: SchedulerView, now: float) -> list[SequenceView]:
        """The waiting sequences (given by ``ordinal``), next to be admitted first."""


class Fcfs(Order):
    """First come, first served. A preempted sequence keeps its place: it came early."""

    def key(self, sequence: SequenceView) -> float:
        return sequence.ordinal


class Sjf(Order):
    """Shortest job first, by predicted output tokens and, in part, by the prompt.

    Args:
        prompt_weight: What a prompt token counts, in output tokens.
    """

    def __init__(self, prompt_weight: float = 0.0) -> None:
        self._prompt_weight = prompt_weight

    def key(self, sequence: SequenceView) -> float:
        return sequence.predicted_tokens + self._prompt_weight * sequence.prompt_tokens


class Priority(Order):
    """The most urgent first, first come first served among equals."""

    def key(self, sequence: SequenceView) -> float:
        return -sequence.priority


class Random(Order):
    """A random order, drawn by a stateless hash of the request: the floor that any other order should beat."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed

    def key(self, sequence: SequenceView) -> float:
        return uniform(self._seed, sequence.request_id)


class Lpm(DynamicOrder):
    """Longest prefix match first (SGLang: Zheng et al., NeurIPS 2024, section 3).

    Args:
        limit: With more sequences waiting than this the order falls back to first come first served, as SGLang does:
            matching every one of them at each step would cost more than it gains. 0 for no limit.
    """

    def __init__(self, limit: int = 128) -> None:
        self._limit = limit

    def arrange(self, waiting: Sequence[SequenceView], scheduler: SchedulerView, now: float) -> list[SequenceView]:
        del now
        if self._limit and len(waiting) > self._limit:
            return list(waiting)
        return sorted(waiting, key=lambda sequence: -scheduler.cached_prefix(sequence))

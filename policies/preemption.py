"""Preemption: which running sequence is retracted when KV runs out. Its KV is dropped and recomputed later."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from policies.views import SequenceView


class Preemption(ABC):
    """Chooses a victim."""

    @abstractmethod
    def victim(self, running: Sequence[SequenceView]) -> SequenceView:
        """One of the running sequences (given in the order they were admitted, at least one)."""


class Newest(Preemption):
    """The one admitted last (vLLM)."""

    def victim(self, running: Sequence[SequenceView]) -> SequenceView:
        return running[-1]


class Oldest(Preemption):
    """The one admitted first."""

    def victim(self, running: Sequence[SequenceView]) -> SequenceView:
        return running[0]


class LeastProgress(Preemption):
    """The one with the fewest output tokens, the longest prompt among those (SGLang's retraction)."""

    def victim(self, running: Sequence[SequenceView]) -> SequenceView:
        return min(running, key=lambda s: (s.total - s.prompt_tokens, -s.prompt_tokens, -s.ordinal))


class LongestRemaining(Preemption):
    """The one with most output still to come, as predicted: what SRPT would interrupt."""

    def victim(self, running: Sequence[SequenceView]) -> SequenceView:
        return max(running, key=lambda s: (s.predicted_tokens - (s.total - s.prompt_tokens), s.ordinal))


class MostServed(Preemption):
    """The one with most output so far: what least attained service, or FastServe's feedback queue, would interrupt."""

    def victim(self, running: Sequence[SequenceView]) -> SequenceView:
        return max(running, key=lambda s: (s.total - s.prompt_tokens, s.ordinal))


class LeastUrgent(Preemption):
    """The one of the lowest priority, the latest to come among those (vLLM's priority scheduling)."""

    def victim(self, running: Sequence[SequenceView]) -> SequenceView:
        return min(running, key=lambda s: (s.priority, -s.ordinal))


class MinWaste(Preemption):
    """The one whose recomputation wastes least memory (InferCept's min-waste: Abhyankar et al., ICML 2024).

    InferCept prices a context that is dropped by the memory that it and all others hold while it is computed again: the
    tokens to recompute, times the tokens held in all. The second is one number for whomever of those that run, so the
    victim is the one with the fewest tokens computed. What the prefix cache keeps of them for a while is not counted.
    """

    def victim(self, running: Sequence[SequenceView]) -> SequenceView:
        return min(running, key=lambda s: (s.computed, -s.ordinal))

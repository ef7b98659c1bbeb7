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

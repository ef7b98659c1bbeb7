"""Prediction: what the other policies may know of output lengths."""

from __future__ import annotations

from abc import ABC, abstractmethod

from policies.views import SequenceView


class Prediction(ABC):
    """Predicts output lengths, once a sequence is queued."""

    @abstractmethod
    def output_tokens(self, sequence: SequenceView) -> int:
        """Output tokens the sequence will produce in all, at least 1."""

    def ended(self, sequence: SequenceView) -> None:
        """The sequence has produced its last token; ``output_tokens`` says how many there were."""

"""Reservation: how much KV an admission must leave free."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from policies.views import SequenceView


class AnyReservation:
    """What every reservation is told.

    Attributes:
        steady: Whether a refusal stands until something arrives, ends or is preempted: true where the room asked for
            a running sequence shrinks no faster than the sequence grows.
    """

    steady: bool = True

    def stepped(self, steps: int) -> None:
        """So many decode steps were planned since it was last called: for a policy that changes with time."""

    def preempted(self) -> None:
        """KV ran out and a sequence was preempted."""

    def ended(self, sequence: SequenceView) -> None:
        """The sequence has produced its last token; ``output_tokens`` says how many there were."""


class Reservation(AnyReservation, ABC):
    """Says how far an admitted sequence is expected to grow; an admission must leave that much room for all."""

    @abstractmethod
    def tokens(self, sequence: SequenceView) -> int:
        """Length in tokens, prompt included, up to which room is kept for the sequence. At least ``computed``."""


class JointReservation(AnyReservation, ABC):
    """Says how much the sequences are expected to hold together, for they do not all end at one time."""

    @abstractmethod
    def peak_pages(self, sequences: Sequence[SequenceView], page_size: int) -> int:
        """Pages that the sequences hold at the time when they hold most.

        Args:
            sequences: Those that run, in the order they were admitted, and last the one that asks to be.
            page_size: Tokens a page.
        """

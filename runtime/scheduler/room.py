"""Room: the pages that an admission must leave for the growth of those who run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence as Sequences

from policies.reservation import AnyReservation, JointReservation, Reservation
from runtime.scheduler.sequence import Sequence


class Room(ABC):
    """What the reservation policy asks for, in the admissions of one step."""

    @abstractmethod
    def wanted(self, sequence: Sequence, end: int, cached_pages: int) -> int:
        """Pages to have for a sequence's admission.

        Args:
            sequence: Asks to be admitted.
            end: Its length, tokens, behind the first chunk: there is room for that in any case.
            cached_pages: Pages of it that the prefix cache holds.
        """

    @abstractmethod
    def admitted(self, sequence: Sequence) -> None:
        """It runs, and holds the pages of its first chunk."""


def room_for(reservation: AnyReservation, running: Sequences[Sequence], page_size: int) -> Room:
    """The form that fits a reservation policy.

    Args:
        reservation: The policy.
        running: The sequences that run, in the order they were admitted; it grows as others are.
        page_size: Tokens a page.
    """
    if isinstance(reservation, JointReservation):
        return _Joint(reservation, running, page_size)
    if isinstance(reservation, Reservation):
        return _Separate(reservation, running, page_size)
    raise TypeError(f"{reservation!r} is neither a Reservation nor a JointReservation")


class _Separate(Room):
    """Each sequence's growth is kept for it; the sum is kept up to date from one admission to the next."""

    def __init__(self, reservation: Reservation, running: Sequences[Sequence], page_size: int) -> None:
        self._reservation, self._page_size = reservation, page_size
        self._kept = 0
        for sequence in running:
            self.admitted(sequence)

    def wanted(self, sequence: Sequence, end: int, cached_pages: int) -> int:
        length = max(self._reservation.tokens(sequence), end)
        return -(-length // self._page_size) - cached_pages + self._kept

    def admitted(self, sequence: Sequence) -> None:
        growth = -(-self._reservation.tokens(sequence) // self._page_size) - sequence.held_pages
        if growth > 0:
            self._kept += growth


class _Joint(Room):
    """The most that all of them will hold together."""

    def __init__(self, reservation: JointReservation, running: Sequences[Sequence], page_size: int) -> None:
        self._reservation, self._running, self._page_size = reservation, running, page_size

    def wanted(self, sequence: Sequence, end: int, cached_pages: int) -> int:
        held = sum([running.held_pages for running in self._running])
        peak = self._reservation.peak_pages([*self._running, sequence], self._page_size)
        return max(peak - held, -(-end // self._page_size)) - cached_pages

    def admitted(self, sequence: Sequence) -> None:
        """It is among those who run."""

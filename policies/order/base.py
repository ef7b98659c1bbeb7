"""Order: which waiting sequence is admitted next."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from policies.errors import PolicyError
from policies.views import SchedulerView, SequenceView


class AnyOrder:
    """What every order is told of the sequences that come and go: for orders that remember.

    A sequence is queued, admitted and leaves; one that was preempted is queued and admitted again. What an order makes
    of the lengths of those that run must hang on these lengths alone and not on how often it is asked: the simulator
    runs many decode steps as one.
    """

    def queued(self, sequence: SequenceView) -> None:
        """The sequence waits from now on."""

    def admitted(self, sequence: SequenceView) -> None:
        """It runs from now on; ``cached`` says what it found in the prefix cache."""

    def left(self, sequence: SequenceView) -> None:
        """It runs or waits no longer: it ended, its client went away, or it was preempted."""


class Order(AnyOrder, ABC):
    """Ranks waiting sequences by a key that is fixed while they wait: smallest first, then by ``ordinal``."""

    @abstractmethod
    def key(self, sequence: SequenceView) -> float:
        """The sequence's rank; asked once, when it is queued (and again after a preemption)."""


class DynamicOrder(AnyOrder, ABC):
    """Ranks waiting sequences anew at every decision, for ranks that change while they wait."""

    @abstractmethod
    def arrange(self, waiting: Sequence[SequenceView], scheduler: SchedulerView, now: float) -> list[SequenceView]:
        """The waiting sequences (given by ``ordinal``), next to be admitted first."""


class PrefixOrder(DynamicOrder):
    """An order that looks every waiting sequence up in the prefix cache.

    Args:
        limit: With more sequences waiting than this the order falls back to first come first served, as SGLang's does:
            matching every one of them at each step would cost more than it gains. 0 for no limit.

    Raises:
        PolicyError: It is negative.
    """

    def __init__(self, limit: int = 128) -> None:
        if limit < 0:
            raise PolicyError(f"policy.order.limit={limit}: a number of waiting sequences, 0 for no limit")
        self._limit = limit

    def arrange(self, waiting: Sequence[SequenceView], scheduler: SchedulerView, now: float) -> list[SequenceView]:
        del now
        if self._limit and len(waiting) > self._limit:
            return list(waiting)
        return self.by_prefix(waiting, scheduler)

    @abstractmethod
    def by_prefix(self, waiting: Sequence[SequenceView], scheduler: SchedulerView) -> list[SequenceView]:
        """The waiting sequences (given by ``ordinal``), next to be admitted first."""

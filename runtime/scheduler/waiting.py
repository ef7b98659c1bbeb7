"""The waiting queue, in the order that the order policy wants."""

from __future__ import annotations

from abc import ABC, abstractmethod

from policies.lazy_heap import LazyHeap
from policies.order import DynamicOrder, Order
from policies.views import SchedulerView
from runtime.scheduler.sequence import Sequence


class WaitingQueue(ABC):
    """Sequences queued for admission."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def push(self, sequence: Sequence) -> None:
        """Queue a sequence."""

    @abstractmethod
    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out, wherever it stands."""

    @abstractmethod
    def arrange(self, scheduler: SchedulerView, now: float) -> None:
        """Settle the order for the decisions of one step."""

    @abstractmethod
    def head(self) -> Sequence:
        """The next to be admitted."""


def waiting_queue(order: Order | DynamicOrder) -> WaitingQueue:
    """The queue that fits an order policy."""
    return _KeyedQueue(order) if isinstance(order, Order) else _ArrangedQueue(order)


class _KeyedQueue(WaitingQueue):
    """For keys that are fixed while a sequence waits."""

    def __init__(self, order: Order) -> None:
        self._order = order
        self._queued = LazyHeap[Sequence]()  # by ordinal

    def __len__(self) -> int:
        return len(self._queued)

    def push(self, sequence: Sequence) -> None:
        self._queued.push(sequence.ordinal, self._order.key(sequence), sequence)

    def remove(self, sequence: Sequence) -> None:
        self._queued.discard(sequence.ordinal)

    def arrange(self, scheduler: SchedulerView, now: float) -> None:
        del scheduler, now

    def head(self) -> Sequence:
        head = self._queued.first()
        if head is None:
            raise LookupError("the head of the waiting queue was asked for, and nothing waits")
        return head


class _ArrangedQueue(WaitingQueue):
    """For ranks that change: arranged anew for every step."""

    def __init__(self, order: DynamicOrder) -> None:
        self._order = order
        self._queued: dict[int, Sequence] = {}  # by ordinal
        self._arranged: list[Sequence] = []  # next to be admitted last

    def __len__(self) -> int:
        return len(self._queued)

    def push(self, sequence: Sequence) -> None:
        self._queued[sequence.ordinal] = sequence

    def remove(self, sequence: Sequence) -> None:
        del self._queued[sequence.ordinal]

    def arrange(self, scheduler: SchedulerView, now: float) -> None:
        waiting = [self._queued[ordinal] for ordinal in sorted(self._queued)]
        arranged: list[Sequence] = self._order.arrange(waiting, scheduler, now)  # type: ignore[assignment]
        if len(arranged) != len(waiting):
            raise ValueError(
                f"{type(self._order).__name__}.arrange returned {len(arranged)} of {len(waiting)} waiting sequences: "
                "return every one, next to be admitted first"
            )
        self._arranged = arranged[::-1]

    def head(self) -> Sequence:
        while self._arranged[-1].ordinal not in self._queued:
            self._arranged.pop()
        return self._arranged[-1]

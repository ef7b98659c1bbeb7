"""SimPy, with what a server of queues needs: waiting until an absolute time, and mailboxes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heappush
from typing import Generic, TypeVar

import simpy
from simpy.events import Event

T = TypeVar("T")

_ARRIVAL = 1  # SimPy's normal priority
_LATE = 2  # at equal times, after everything that arrives then
_MOST_SKIPPED = 50  # times in a row


class Environment(simpy.Environment):
    """A SimPy environment whose clock can be aimed at exactly.

    SimPy's timeouts are delays, and ``now + (time - now)`` need not be ``time``. Leaping over decode steps gives the
    same tables as running them one by one only where both arrive at the same floats.
    """

    def __init__(self) -> None:
        super().__init__()
        self._skipped = 0

    def at(self, time: float, callback: Callable[[], None]) -> None:
        """Call back at ``time``; calls for the same time in the order they were asked for."""
        self._timer(time, _ARRIVAL).callbacks.append(lambda _: callback())

    def until(self, time: float) -> Event:
        """An event at ``time``, after all that :meth:`at` calls back then."""
        return self._timer(time, _LATE)

    def skip_to(self, time: float) -> bool:
        """Be at ``time`` without an event, if nothing happens up to then; says whether it was so.

        Now and then it says no all the same: who drives the events is to see how far it is.

        Raises:
            ValueError: The time has passed.
        """
        if time < self._now:
            raise ValueError(f"a skip to {time} s when it is {self._now} s")
        if (self._queue and self._queue[0][0] <= time) or self._skipped >= _MOST_SKIPPED:
            self._skipped = 0
            return False
        self._skipped += 1
        self._now = time
        return True

    def _timer(self, time: float, priority: int) -> Event:
        if time < self._now:
            raise ValueError(f"an event at {time} s when it is {self._now} s")
        event = Event(self)
        event._ok, event._value = True, None  # noqa: SLF001  # triggered from the start, as SimPy's Timeout is
        heappush(self._queue, (time, priority, next(self._eid), event))  # type: ignore[misc]
        return event


class Mailbox(Generic[T]):
    """An unbounded queue with one reader."""

    def __init__(self, env: Environment) -> None:
        self._env = env
        self._items: deque[T] = deque()
        self._waiting: Event | None = None

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T) -> None:
        """Queue an item, and wake the reader if it waits."""
        self._items.append(item)
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.succeed()

    def arrival(self) -> Event:
        """An event for the reader to wait for: the next item is put."""
        event = self._waiting = self._env.event()
        return event

    def take(self) -> list[T]:
        """Everything queued, oldest first."""
        items = list(self._items)
        self._items.clear()
        return items

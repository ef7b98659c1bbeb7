"""Which request is sent when: the rules of a workload, without a clock."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from harness.workload import Arrivals, Workload


class Sending:
    """Says what may be sent at the start, and what may once a request has ended.

    A request whose turn before has not ended arrives when that has, and its think time has passed, if that is later
    than the trace says.

    Attributes:
        left: Requests that have not ended.

    Args:
        workload: What to send.
    """

    def __init__(self, workload: Workload) -> None:
        self._trace = trace = workload.trace
        self._arrivals = workload.arrivals
        self._concurrency = workload.concurrency
        self._underway = 0  # requests sent or thinking, of those that a closed loop has begun
        self.left = len(trace)
        row_of = {request_id: row for row, request_id in enumerate(trace.request_id.tolist())}
        self._followers: dict[int, list[int]] = {}
        self._roots: deque[int] = deque()
        for row, parent_id in enumerate(trace.parent_id.tolist()):
            parent = row_of.get(parent_id)
            if parent is None:
                self._roots.append(row)
            else:
                self._followers.setdefault(parent, []).append(row)

    def at_start(self) -> Iterator[tuple[float, int]]:
        """Arrival time and row of the requests that wait for no other, in order of time."""
        if self._arrivals is Arrivals.OPEN:
            times = self._trace.arrival_s
            while self._roots:
                row = self._roots.popleft()
                yield times.item(row), row
        elif self._arrivals is Arrivals.ALL_AT_ONCE:
            while self._roots:
                yield 0.0, self._roots.popleft()
        else:
            yield from self._fill(0.0)

    def after(self, row: int, time_s: float) -> list[tuple[float, int]]:
        """A request ended at ``time_s``: arrival time and row of those that waited for it, or for room."""
        self.left -= 1
        sent = []
        for follower in self._followers.get(row, ()):
            arrival_s = time_s + self._trace.think_s.item(follower)
            if self._arrivals is Arrivals.OPEN:
                arrival_s = max(arrival_s, self._trace.arrival_s.item(follower))
            sent.append((arrival_s, follower))
        if self._arrivals is Arrivals.CLOSED:
            self._underway += len(sent) - 1
            sent.extend(self._fill(time_s))
        return sent

    def _fill(self, time_s: float) -> Iterator[tuple[float, int]]:
        while self._roots and self._underway < self._concurrency:
            self._underway += 1
            yield time_s, self._roots.popleft()

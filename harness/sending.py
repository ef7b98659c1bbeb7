"""Which request is sent when: the rules of a workload, without a clock."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

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
        parents = _rows_of(trace.parent_id, trace.request_id)
        self._roots = np.flatnonzero(parents < 0)
        self._next_root = 0
        self._followers: dict[int, list[int]] = {}
        for row in np.flatnonzero(parents >= 0).tolist():
            self._followers.setdefault(parents.item(row), []).append(row)

    def at_start(self) -> Iterator[tuple[float, int]]:
        """Arrival time and row of the requests that wait for no other, in order of time."""
        if self._arrivals is Arrivals.CLOSED:
            yield from list(self._fill(0.0))  # all of them now: whoever ends lets in others
            return
        at_once = self._arrivals is Arrivals.ALL_AT_ONCE
        times = self._trace.arrival_s
        while self._next_root < len(self._roots):
            row = self._take_root()
            yield 0.0 if at_once else times.item(row), row

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
        while self._next_root < len(self._roots) and self._underway < self._concurrency:
            self._underway += 1
            yield time_s, self._take_root()

    def _take_root(self) -> int:
        self._next_root += 1
        return int(self._roots.item(self._next_root - 1))


def _rows_of(ids: npt.NDArray[np.int64], all_ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Where each of ``ids`` stands in ``all_ids``, or -1."""
    order = np.argsort(all_ids, kind="stable")
    place = order[np.searchsorted(all_ids, ids, sorter=order).clip(max=len(all_ids) - 1)]
    return np.where(all_ids[place] == ids, place, -1)

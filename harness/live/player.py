"""Sends a workload's requests when they are due, one thread, one clock, and notes what comes back."""

from __future__ import annotations

import gc
import heapq
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from harness.live.token_times import TokenTimes
from harness.metrics.request_log import Counts, RequestLog
from harness.metrics.schema import Array
from harness.metrics.token_table import token_columns
from harness.progress import Progress
from harness.sending import Sending
from harness.workload import Workload

_LOOK_EVERY_S = 0.1
_LOOK_LATEST_S = 1.0  # then also where a request is due soon
_AHEAD_S = 2.0  # requests are prepared no earlier before they are due
_AHEAD = 256  # and no more at a time: of 100,000 tokens each is 0.7 MB
_LEISURE_S = 0.01  # until the next request is due: more than preparing one takes, or a look


@dataclass(slots=True)
class Finish:
    """How a request ended, as far as the server tells.

    Attributes:
        status: As in harness.metrics.schema.STATUSES.
        reason: Why the output ended, or None.
        error: The server's words, or None.
        output_tokens: Tokens that it says it produced.
        counts: What it counted, as far as it tells.
        moments: Of the eight those that the server tells, by column, seconds on the client's clock.
    """

    status: str
    reason: str | None
    error: str | None
    output_tokens: int
    counts: Counts = field(default_factory=Counts)
    moments: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class News:
    """What came of a request: tokens, its end, or both.

    Attributes:
        row: Of the trace.
        tokens: How many.
        finish: How it ended, or None.
    """

    row: int
    tokens: int
    finish: Finish | None


class Transport(ABC):
    """The way to a server and back. Its clock is ``time.monotonic``."""

    @abstractmethod
    def prepare(self, row: int) -> None:
        """Make what will be sent for a request, so that sending takes no time; may be called for a row that was."""

    @abstractmethod
    def send(self, row: int, arrival_s: float, start_s: float) -> None:
        """Send a request, which was due ``arrival_s`` after the run's start at ``start_s`` on the clock."""

    @abstractmethod
    def close(self) -> None:
        """Leave the server, giving up what is under way."""

    @abstractmethod
    def receive(self, timeout_s: float) -> list[News]:
        """What came; nothing if nothing came in time.

        Raises:
            ServerGoneError: Nothing will come any more.
        """


class ServerGoneError(RuntimeError):
    """The server died under the run; the message says how."""


@dataclass(slots=True)
class Outcome:
    """How a replay ended.

    Attributes:
        complete: Whether every request ended.
        failure: What the server died of, or None.
    """

    complete: bool
    failure: str | None


class Player:
    """One replay.

    Attributes:
        log: Request table.
        times: Token times.
        start_s: When the run began, on ``time.monotonic``.

    Args:
        workload: What to send.
        transport: The way to the server.
        drop_after_s: Give up when nothing at all has come for so long.
        keep_tokens: Remember when each token came, for :meth:`tokens`.
    """

    def __init__(
        self, workload: Workload, transport: Transport, drop_after_s: float, *, keep_tokens: bool = False
    ) -> None:
        self.log = RequestLog(workload.trace)
        self.times = TokenTimes(keep=keep_tokens)
        self._keep_tokens = keep_tokens
        self._workload = workload
        self._transport = transport
        self._sending = Sending(workload)
        self._drop_after_s = drop_after_s
        self._in_flight = 0
        self.start_s = 0.0

    def play(self, watch: Callable[[Progress], bool]) -> Outcome:
        """Send everything and wait for everything.

        Args:
            watch: Told how far it is, about ten times a second; says whether to go on.
        """
        with _no_garbage_collection():
            try:
                return Outcome(self._play(watch), None)
            except ServerGoneError as error:
                return Outcome(False, str(error))

    def tokens(self) -> dict[str, Array] | None:
        """Base columns of the token table, or None where they were not kept."""
        if not self._keep_tokens:
            return None
        request_ids = self._workload.trace.request_id
        return token_columns((request_ids.item(row), times_s) for row, times_s in self.times.times_s())

    def _play(self, watch: Callable[[Progress], bool]) -> bool:
        """Send, receive, and do what can wait while nothing is due: a request is late by all that comes before it."""
        transport, sending = self._transport, self._sending
        upcoming = _Upcoming(sending.at_start(), transport)
        while upcoming.prepare(0.0):
            pass
        self.start_s = start_s = time.monotonic()
        looked_s = heard_s = start_s
        while sending.left:
            now_s = time.monotonic() - start_s
            prepared = False
            if upcoming.next_s <= now_s:
                self._send(upcoming.take(), start_s)  # one: it is begun as the transport receives
            elif upcoming.next_s - now_s > _LEISURE_S:
                prepared = upcoming.prepare(now_s)
            free_s = start_s + upcoming.next_s - time.monotonic()
            for news in transport.receive(0.0 if prepared else min(max(free_s, 0.0), _LOOK_EVERY_S)):
                heard_s = time.monotonic()
                for later in self._take(news, heard_s - start_s):
                    upcoming.add(later)
            clock_s = time.monotonic()
            leisure = start_s + upcoming.next_s - clock_s > _LEISURE_S
            if clock_s - looked_s > (_LOOK_EVERY_S if leisure else _LOOK_LATEST_S):
                looked_s = clock_s
                if not watch(self.log.progress(clock_s - start_s, self.times.tokens)):
                    return False
            if not self._in_flight:
                heard_s = clock_s
            elif clock_s - heard_s > self._drop_after_s:
                raise ServerGoneError(f"nothing came from the server for {self._drop_after_s:g} s")
        return True

    def _send(self, sent: tuple[float, int], start_s: float) -> None:
        arrival_s, row = sent
        log = self.log
        log.arrival_s[row] = arrival_s
        log.times["sent_s"][row] = time.monotonic() - start_s
        self._in_flight += 1
        self._transport.send(row, arrival_s, start_s)

    def _take(self, news: News, now_s: float) -> list[tuple[float, int]]:
        """Note news of a request; returns what may be sent now that it has ended."""
        row, log, times = news.row, self.log, self.log.times
        if news.tokens:
            self.times.came(row, news.tokens, now_s)
        finish = news.finish
        if finish is None:
            return []
        times["client_first_token_s"][row] = self.times.first_s(row)
        pool = finish.status == "ok" and log.arrival_s[row] >= self._workload.warmup_s
        last_s, *itl = self.times.close(row, pool)
        times["client_last_token_s"][row] = last_s
        times["itl_p50_s"][row], times["itl_p99_s"][row], times["itl_max_s"][row] = itl
        for moment, time_s in finish.moments.items():
            times[moment][row] = time_s
        log.count(row, finish.output_tokens, finish.counts)
        log.end(row, finish.status, finish.reason, finish.error)
        self._in_flight -= 1
        return self._sending.after(row, now_s)


class _Upcoming:
    """The requests that are to be sent, those due soon prepared.

    Args:
        roots: Arrival time and row of those that wait for no other, in order of time.
        transport: Prepares.
    """

    def __init__(self, roots: Iterator[tuple[float, int]], transport: Transport) -> None:
        self._roots = roots
        self._transport = transport
        self._waiting: list[tuple[float, int]] = []  # a heap: later turns, and the next root
        self._prepared: list[tuple[float, int]] = []  # a heap
        self._root: tuple[float, int] | None = None
        self._next_root()

    @property
    def next_s(self) -> float:
        """When the next one is due; infinity without one."""
        return min([heap[0][0] for heap in (self._prepared, self._waiting) if heap], default=float("inf"))

    def add(self, later: tuple[float, int]) -> None:
        """Arrival time and row of one that waited for another."""
        heapq.heappush(self._waiting, later)

    def take(self) -> tuple[float, int]:
        """The next one."""
        waiting, prepared = self._waiting, self._prepared
        if waiting and (not prepared or waiting[0] < prepared[0]):
            return self._wait_no_more()
        return heapq.heappop(prepared)

    def prepare(self, now_s: float) -> bool:
        """Prepare the next one that is not; says whether there was one due soon, and room."""
        if not self._waiting or self._waiting[0][0] > now_s + _AHEAD_S or len(self._prepared) >= _AHEAD:
            return False
        upcoming = self._wait_no_more()
        self._transport.prepare(upcoming[1])
        heapq.heappush(self._prepared, upcoming)
        return True

    def _wait_no_more(self) -> tuple[float, int]:
        first = heapq.heappop(self._waiting)
        if first is self._root:
            self._next_root()
        return first

    def _next_root(self) -> None:
        self._root = next(self._roots, None)
        if self._root is not None:
            heapq.heappush(self._waiting, self._root)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A collection in mid-run would be lateness of the client's own."""
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()

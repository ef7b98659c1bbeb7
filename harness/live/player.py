"""Sends a workload's requests when they are due, one thread, one clock, and notes what comes back."""

from __future__ import annotations

import gc
import heapq
import time
from abc import ABC, abstractmethod
from collections import deque
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
_AHEAD = 64  # requests prepared before they are due
_IDLE_S = 0.005  # free at least so long before another one is prepared


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
        transport, sending = self._transport, self._sending
        roots = _Upcoming(sending.at_start(), transport)
        roots.prepare(_AHEAD)
        due: list[tuple[float, int]] = []  # later turns
        self.start_s = start_s = time.monotonic()
        looked_s = heard_s = start_s
        while sending.left:
            now_s = time.monotonic() - start_s
            while roots.next_s <= now_s:
                self._send(roots.take(), start_s)
            while due and due[0][0] <= now_s:
                self._send(heapq.heappop(due), start_s)
            next_s = min(roots.next_s, due[0][0] if due else float("inf"), now_s + _LOOK_EVERY_S)
            if next_s - now_s > _IDLE_S:
                roots.prepare(1)
            for news in transport.receive(max(next_s - (time.monotonic() - start_s), 0.0)):
                heard_s = time.monotonic()
                for later in self._take(news, heard_s - start_s):
                    heapq.heappush(due, later)
            clock_s = time.monotonic()
            if clock_s - looked_s > _LOOK_EVERY_S:
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
    """The requests that wait for no other, the next few of them prepared.

    Args:
        roots: Arrival time and row, in order of time.
        transport: Prepares.
    """

    def __init__(self, roots: Iterator[tuple[float, int]], transport: Transport) -> None:
        self._roots = roots
        self._transport = transport
        self._prepared: deque[tuple[float, int]] = deque()
        self._next = next(roots, None)

    @property
    def next_s(self) -> float:
        """When the next one is due; infinity without one."""
        if self._prepared:
            return self._prepared[0][0]
        return self._next[0] if self._next else float("inf")

    def take(self) -> tuple[float, int]:
        """The next one."""
        if not self._prepared:
            self.prepare(1)
        return self._prepared.popleft()

    def prepare(self, requests: int) -> None:
        """Prepare so many more, where there are, and they are not too many already."""
        while requests and self._next is not None and len(self._prepared) < _AHEAD:
            self._transport.prepare(self._next[1])
            self._prepared.append(self._next)
            self._next = next(self._roots, None)
            requests -= 1


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

"""A client is on time: what can be done before a request is due, or after it, is not done in between."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import select
import sys
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.live import player as player_module
from harness.live import punctual_loop as loop_module
from harness.live.events import event_data
from harness.live.player import Finish, News, Player, Transport
from harness.live.punctual_loop import punctual_loop
from harness.metrics.schema import Array
from harness.progress import Progress
from harness.workload import Arrivals, Workload
from traces.schema import Trace

PREPARE_S = 0.008  # on a slow machine
LOOK_S = 0.005
SERVE_S = 0.25
CLOCK_S = 1e-9
ON_TIME_S = 1e-6


class Server(Transport):
    """Answers each request after a while. It has the clock: preparing takes time, and so does waiting."""

    def __init__(self) -> None:
        self.now_s = 50.0
        self.most_prepared = 0
        self.begun_s: dict[int, float] = {}
        self._prepared: set[int] = set()
        self._sent: list[int] = []
        self._ends: list[tuple[float, int]] = []

    def prepare(self, row: int) -> None:
        if row not in self._prepared:
            self.now_s += PREPARE_S
            self._prepared.add(row)
            self.most_prepared = max(self.most_prepared, len(self._prepared))

    def send(self, row: int, arrival_s: float, start_s: float) -> None:
        del arrival_s, start_s
        self.prepare(row)
        self._prepared.remove(row)
        self._sent.append(row)

    def receive(self, timeout_s: float) -> list[News]:
        for row in self._sent:  # as an event loop does: in its next turn
            self.begun_s[row] = self.now_s
            heapq.heappush(self._ends, (self.now_s + SERVE_S, row))
        self._sent.clear()
        until_s = self.now_s + timeout_s
        if self._ends and self._ends[0][0] <= until_s:
            end_s, row = heapq.heappop(self._ends)
            self.now_s = max(self.now_s, end_s)
            return [News(row, 1, Finish("ok", "length", None, 1))]
        self.now_s = until_s
        return []

    def look_at_the_clock(self) -> float:
        self.now_s += CLOCK_S
        return self.now_s

    def close(self) -> None:
        """There is nothing to leave."""


def played(workload: Workload, monkeypatch: pytest.MonkeyPatch) -> tuple[Server, Array, int, Array]:
    """The server after a replay, how late each request was begun, how often someone looked, and when each was due."""
    server, looks = Server(), 0
    monkeypatch.setattr(player_module, "time", SimpleNamespace(monotonic=server.look_at_the_clock))

    def watch(progress: Progress) -> bool:
        nonlocal looks
        looks += 1
        server.now_s += LOOK_S
        return True

    player = Player(workload, server, 60.0)
    assert player.play(watch).complete
    begun_s = np.array([server.begun_s[row] for row in range(len(workload.trace))])
    arrival_s = player.log.arrival_s
    return server, begun_s - player.start_s - arrival_s, looks, arrival_s


def lone(arrival_s: Array) -> Trace:
    return Trace.build(
        "lone", arrival_s=arrival_s, prompt_tokens=[8] * len(arrival_s), output_tokens=[1] * len(arrival_s)
    )


def test_nothing_comes_between_a_request_and_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    gaps_s = np.random.default_rng(0).uniform(0.02, 0.3, 300)
    _, late_s, looks, _ = played(Workload(lone(gaps_s.cumsum())), monkeypatch)
    assert late_s.max() < ON_TIME_S, "neither preparing another request nor a look made it late"
    assert looks > gaps_s.sum() * 2


def test_a_later_turn_is_prepared_while_its_user_thinks(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = 30
    trace = Trace.build(
        "session",
        arrival_s=np.zeros(turns),
        prompt_tokens=[8] * turns,
        output_tokens=[1] * turns,
        session_id=[1] * turns,
        turn=range(turns),
        parent_id=range(-1, turns - 1),
        think_s=[0.5] * turns,
    )
    _, late_s, _, _ = played(Workload(trace), monkeypatch)
    assert late_s.max() < ON_TIME_S


@pytest.mark.parametrize(
    ("arrival_s", "most"),
    [(np.arange(3000) * 0.05, 45), (np.zeros(1000), 256)],
    ids=["of a long trace those of the next seconds", "of a burst the first"],
)
def test_few_requests_are_prepared_at_a_time(arrival_s: Array, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    server, _, _, _ = played(Workload(lone(arrival_s)), monkeypatch)
    assert 10 < server.most_prepared <= most


def test_where_requests_leave_no_leisure_someone_looks_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    _, _, looks, _ = played(Workload(lone(np.arange(1000) * 0.009)), monkeypatch)
    assert looks >= 4


def test_a_closed_loop_begins_with_all_of_its_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the first has its answer before the last is sent."""
    _, _, _, arrival_s = played(Workload(lone(np.zeros(400)), Arrivals.CLOSED, 300), monkeypatch)
    assert (arrival_s == 0).sum() == 300


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere asyncio's own loop is exact")
def test_a_timer_is_not_rounded_to_milliseconds(monkeypatch: pytest.MonkeyPatch) -> None:
    asked_s: list[float] = []

    def waits(read: Any, write: Any, other: Any, timeout_s: float) -> Any:
        asked_s.append(timeout_s)
        return select.select(read, write, other, timeout_s)

    monkeypatch.setattr(loop_module, "select", SimpleNamespace(select=waits))
    loop = punctual_loop()
    loop.call_later(0.0004, loop.stop)
    loop.run_forever()
    loop.close()
    assert asked_s
    assert max(asked_s) <= 0.0004


@given(st.lists(st.integers(0, 60)), st.sampled_from([b"\n", b"\r\n"]), st.booleans())
def test_events_are_read_wherever_the_stream_is_cut(cuts: list[int], end: bytes, ended: bool) -> None:
    stream = (end + end).join([b"data: {1}", b": a comment", b"id: 7" + end + b"data: {2}", b"data: [DONE]"])
    stream += end if ended else b""
    at = sorted({min(cut, len(stream)) for cut in cuts} | {0, len(stream)})

    async def pieces() -> AsyncIterator[bytes]:
        for begin, stop in itertools.pairwise(at):
            yield stream[begin:stop]

    async def read() -> list[bytes]:
        return [data async for data in event_data(pieces())]

    assert asyncio.run(read()) == [b"{1}", b"{2}", b"[DONE]"]

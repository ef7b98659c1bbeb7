"""Ctrl-C twice: the first ends a run in order, the second acts as ever, however close the two come."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from harness import interrupt
from harness.compose import compose
from harness.interrupt import Interrupt
from harness.sweep import cell

Tracer = Callable[[FrameType, str, Any], Any]


@pytest.fixture
def passed_on() -> Iterator[list[int]]:
    """The signals that came to whoever handled them before."""
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    yield came
    signal.signal(signal.SIGINT, before)


def interrupted_at(line: int) -> Tracer:
    """Send a signal before the line that is so many into the module's code, and count the lines."""
    lines = 0

    def trace(frame: FrameType, event: str, _: object) -> Tracer | None:
        nonlocal lines
        if frame.f_code.co_filename != interrupt.__file__:
            return None
        if event == "line":
            lines += 1
            if lines == line:
                signal.raise_signal(signal.SIGINT)
        return trace

    return trace


def test_the_first_is_noted_and_the_second_passed_on(passed_on: list[int]) -> None:
    with Interrupt() as noted:
        assert not noted.requested
        signal.raise_signal(signal.SIGINT)
        assert noted.requested
        assert passed_on == []
        signal.raise_signal(signal.SIGINT)
        assert passed_on == [signal.SIGINT]


def test_a_signal_that_is_not_asked_for_acts_as_ever() -> None:
    """A pool ends its workers by SIGTERM where one has died: a cell must not outlast that."""
    before = signal.getsignal(signal.SIGTERM)
    with Interrupt([signal.SIGINT]):
        assert signal.getsignal(signal.SIGTERM) is before
        assert signal.getsignal(signal.SIGINT) is not before
    with Interrupt():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("line", range(1, 40))
def test_another_may_come_at_any_line(line: int, passed_on: list[int]) -> None:
    handler = signal.getsignal(signal.SIGINT)
    before = sys.gettrace()
    sys.settrace(interrupted_at(line))
    try:
        with Interrupt() as noted:
            signal.raise_signal(signal.SIGINT)
    finally:
        sys.settrace(before)
    assert noted.requested or passed_on
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_cell_of_a_sweep_can_be_terminated(monkeypatch: pytest.MonkeyPatch) -> None:
    handlers = []

    def replay(*_: object) -> None:
        handlers.append((signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)))

    monkeypatch.setattr(cell.experiment, "replay", replay)
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    cell.replay(compose(["trace.head=2"]))
    ((term, interrupted),) = handlers
    assert term is before[0]
    assert interrupted is not before[1]

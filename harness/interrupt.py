"""Ctrl-C that ends a run in order, so that what was measured is kept."""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence
from types import FrameType


class Interrupt:
    """While entered, the first of some signals is noted instead of raised; the second acts as ever.

    Args:
        signals: Which.

    Attributes:
        requested: Whether one came.
    """

    def __init__(self, signals: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM)) -> None:
        self.requested = False
        self._signals = signals
        self._before: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            for number in self._signals:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self.requested = True
        self._restore()

    def _restore(self) -> None:
        before, self._before = self._before, {}  # not emptied in place: another signal may come while this loop runs
        for number, handler in before.items():
            signal.signal(number, handler)

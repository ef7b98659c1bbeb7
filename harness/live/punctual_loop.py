"""An event loop that wakes when it is to, not up to a millisecond later."""

from __future__ import annotations

import asyncio
import select
import selectors
import sys

_FD_SETSIZE = 1024  # select(2) takes file descriptors below it


def punctual_loop() -> asyncio.AbstractEventLoop:
    """A new event loop whose timers are as exact as the system's.

    Epoll's timeout is of whole milliseconds, and asyncio rounds it up; uvloop's timers are as coarse. Elsewhere
    (kqueue) asyncio's own loop is exact.
    """
    if sys.platform != "linux":
        return asyncio.new_event_loop()
    return asyncio.SelectorEventLoop(_PunctualSelector())


if sys.platform == "linux":

    class _PunctualSelector(selectors.EpollSelector):
        """Waits for the epoll, which is a file itself, by select(2): its timeout is of microseconds."""

        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            """What is ready within ``timeout`` seconds."""
            if timeout is not None and timeout > 0 and self.fileno() < _FD_SETSIZE:
                select.select((self,), (), (), timeout)
                timeout = 0
            return super().select(timeout)

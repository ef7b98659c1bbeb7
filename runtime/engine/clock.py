"""The device's events on the host's clock."""

from __future__ import annotations

import time

import torch


class DeviceClock:
    """Says when the current device came to an event, on the machine's monotonic clock.

    The two clocks meet whenever the host waits for an event that is still to come, so that they never drift apart.
    """

    def __init__(self) -> None:
        self._met = self.mark()
        self._met.synchronize()
        self._met_s = time.monotonic()

    def mark(self) -> torch.cuda.Event:
        """An event behind what is in the current stream."""
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def wait(self, event: torch.cuda.Event) -> float:
        """Wait for an event; returns when it was, seconds."""
        if event.query():  # type: ignore[no-untyped-call]
            return self._met_s + self.between(self._met, event)
        event.synchronize()
        self._met, self._met_s = event, time.monotonic()
        return self._met_s

    @staticmethod
    def between(earlier: torch.cuda.Event, later: torch.cuda.Event) -> float:
        """Seconds from one event to another; the device has come to both."""
        return float(earlier.elapsed_time(later)) / 1e3

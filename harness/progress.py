"""How far a run is, in one line."""

from __future__ import annotations

import time
from typing import NamedTuple

from rich.console import Console
from rich.live import Live
from rich.text import Text

from harness.report.terminal import UNKNOWN, figure


class Progress(NamedTuple):
    """A look at a run under way; None is not known yet.

    Attributes:
        clock_s: Seconds since the run's start, on its own clock: virtual in the simulator.
        ended: Requests that have ended,
        requests: of so many.
        in_flight: Requests sent and not ended.
        output_tokens: Tokens produced so far.
        hit_ratio: Share of prompt tokens found in the prefix cache.
        ttft_p50_s: Median time to first token so far.
        ttft_p99_s: 99th percentile.
    """

    clock_s: float
    ended: int
    requests: int
    in_flight: int
    output_tokens: int
    hit_ratio: float | None
    ttft_p50_s: float | None
    ttft_p99_s: float | None


class ProgressLine:
    """A line that is rewritten while a run goes on; nothing where the output is not a terminal."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, transient=True, auto_refresh=False)
        self._shown = console.is_terminal
        self._begun_s = time.monotonic()

    def __enter__(self) -> ProgressLine:
        if self._shown:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._shown:
            self._live.stop()

    def __call__(self, progress: Progress) -> None:
        """Show how far the run is."""
        if self._shown:
            elapsed_s = time.monotonic() - self._begun_s
            self._live.update(Text(progress_line(progress, elapsed_s)), refresh=True)


def progress_line(progress: Progress, elapsed_s: float) -> str:
    """The line's text.

    Args:
        progress: The run.
        elapsed_s: Wall-clock seconds since its start.
    """
    left = progress.requests - progress.ended
    eta = f"{elapsed_s * left / progress.ended:.0f} s" if progress.ended else UNKNOWN
    rate = f"{progress.output_tokens / progress.clock_s:,.0f}" if progress.clock_s else UNKNOWN
    hit = figure(progress.hit_ratio, ".1%")
    return (
        f"{progress.clock_s:,.1f} s  {progress.ended:,}/{progress.requests:,} requests  "
        f"{progress.in_flight:,} in flight  {rate} tok/s  hit {hit}  "
        f"TTFT p50 {_ms(progress.ttft_p50_s)} p99 {_ms(progress.ttft_p99_s)}  ETA {eta}"
    )


def _ms(seconds: float | None) -> str:
    return UNKNOWN if seconds is None else f"{seconds * 1e3:,.0f} ms"

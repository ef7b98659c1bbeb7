"""How far a sweep is: a bar with an estimate on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from harness.sweep.cell import Status

LINE_EVERY_S = 10.0


class SweepProgress:
    """Counts cells as they end.

    Args:
        console: Where to say so.
        cells: How many are to be run.
    """

    def __init__(self, console: Console, cells: int) -> None:
        self._console = console
        self._cells = cells
        self._ended = self._failed = 0
        self._begun_s = self._said_s = time.monotonic()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bar = Progress(*columns, TextColumn("ETA"), TimeRemainingColumn(), console=console, transient=True)
        self._task = self._bar.add_task("cells", total=cells)

    def __enter__(self) -> SweepProgress:
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._console.is_terminal:
            self._bar.stop()

    def count(self, status: Status) -> None:
        """Note that a cell has ended."""
        self._ended += 1
        self._failed += status is Status.FAILED
        failed = f", {self._failed} failed" if self._failed else ""
        self._bar.update(self._task, completed=self._ended, description=f"cells{failed}")
        now_s = time.monotonic()
        if not self._console.is_terminal and now_s - self._said_s >= LINE_EVERY_S:
            self._said_s = now_s
            left_s = (now_s - self._begun_s) * (self._cells - self._ended) / self._ended
            self._console.print(f"{self._ended:,} of {self._cells:,} cells{failed}, ETA {left_s:,.0f} s")

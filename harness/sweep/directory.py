"""The directory of a sweep: one process at a time works at its cells."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from harness.config import ConfigError
from harness.metrics.files import SUMMARY
from harness.sweep.cell import CellTask, Status, status_of
from harness.sweep.grid import GridCell

PACKAGES = ("harness", "policies", "runtime", "traces")


def tasks_of(cells: Sequence[GridCell], directory: Path, keep_tables: bool) -> dict[str, CellTask]:
    """Each cell with the directory where it is kept, which its id names: a cell is found again by what it runs."""
    return {cell.id: CellTask(directory / "cells" / cell.id, cell.config, keep_tables) for cell in cells}


def open_tasks(tasks: dict[str, CellTask], retry: bool) -> list[CellTask]:
    """The cells that have still to be run.

    Args:
        tasks: All of them.
        retry: Run those that failed again, too.
    """
    wanted = (Status.OPEN, Status.FAILED) if retry else (Status.OPEN,)
    return [task for task in tasks.values() if status_of(task.directory) in wanted]


def changed_since(tasks: dict[str, CellTask]) -> list[Path]:
    """The source files, ours or beside the user, that are newer than a cell that is kept, the newest first.

    A cell is known by its configuration, which says nothing of the program: what an older one made would stand in a
    table beside what the newer one makes.
    """
    kept = [path.stat().st_mtime for task in tasks.values() if (path := task.directory / SUMMARY).is_file()]
    root = Path(__file__).resolve().parents[2]
    sources = [*Path.cwd().glob("*.py"), *(path for package in PACKAGES for path in (root / package).rglob("*.py"))]
    changed = [(path.stat().st_mtime, path) for path in sources]
    return [path for time, path in sorted(changed, reverse=True) if kept and time > min(kept)]


@contextmanager
def locked(directory: Path, name: str = "lock") -> Iterator[None]:
    """Hold a directory, which is made where it is not there; the kernel lets go of it when this process ends.

    Raises:
        ConfigError: Another process holds it, or it cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = (directory / name).open("w")
    except OSError as error:
        raise ConfigError(f"--out {directory}: cannot be written ({error.strerror}); name another") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"--out {directory}: another sweep is at work there; wait for it or name another"
            ) from None
        yield

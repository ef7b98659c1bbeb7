"""``harness sweep``: every combination of some knobs' values, on all cores or on a cluster, and one table."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import TYPE_CHECKING

from harness.commands.parser import command_parser
from harness.exit_code import ExitCode
from harness.report.terminal import shortest, table_console

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Console

    from harness.sweep.cell import CellTask, Status

MOST_NAMED = 10  # of the files that have changed

_EXAMPLE = """\
examples:
  python -m harness sweep policy=radix,vllm trace.rate=1,2,4
  python -m harness sweep 'policy/order=glob(*)' 'trace.rate=range(2,20,2)' slo=llama3_8b --plot goodput.png
  python -m harness sweep policy=radix,vllm tp=1,2,4 --out sweeps/tp --ray auto
  python -m harness sweep policy=radix,vllm tp=1,2,4 --out sweeps/tp --slurm 8 --sbatch=--partition=cpu

Overrides are those of harness run; a knob has several values by a,b or range(1,5) or choice(a,b) or glob(*). A cell is
known by its configuration: a sweep that was killed goes on when the same command is given again, and cells that are
there already are not run again, whichever command wrote them to the same --out.
"""


def main(argv: list[str]) -> ExitCode:
    """Run a sweep, or what is left of one.

    Returns:
        0; 1 where a cell failed; 130 interrupted, what has ended is kept.
    """
    arguments = _parser().parse_intermixed_args(argv)

    from harness.report.figure import check_format
    from harness.sweep.directory import changed_since, locked, open_tasks, tasks_of
    from harness.sweep.grid import distinct, expand
    from harness.sweep.on_slurm import share_of

    check_format(arguments.plot)
    console = table_console()
    directory = arguments.out or Path("runs") / f"sweep_{distinct(arguments.overrides)}"
    tasks = tasks_of(expand(arguments.overrides), directory.absolute(), arguments.keep_tables)
    if arguments.share is not None:
        tasks = share_of(tasks, arguments.share)
    with locked(directory, "lock" if arguments.share is None else f"lock.{arguments.share.replace('/', '_of_')}"):
        todo = open_tasks(tasks, arguments.retry)
        console.print(f"Sweep of {len(tasks):,} cells{_before(tasks, todo)}: {directory}", markup=False)
        changed = changed_since(tasks)
        _warn(changed, directory, console)
        interrupted = not _run(todo, arguments, directory, console)
        if arguments.share is None:
            _conclude(directory, arguments.plot, console)
            _warn(changed, directory, console)  # again: the table has pushed it away
    if interrupted:
        console.print("Interrupted: what has ended is kept, and the same command goes on.", style="bold")
        return ExitCode.INTERRUPTED
    return ExitCode.FAILED if open_tasks(tasks, retry=True) else ExitCode.OK


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "sweep", "Run every combination of some knobs' values, keep each, and end with one table.", _EXAMPLE
    )
    parser.add_argument("overrides", nargs="+", metavar="KNOB=VALUES", help="of the configuration")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where cells are kept (runs/sweep_ and a hash of these)"
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="processes (all cores for the simulator, one where time is real)"
    )
    parser.add_argument("--keep-tables", action="store_true", help="keep each cell's tables and timeline")
    parser.add_argument("--retry", action="store_true", help="run cells that failed again")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="save a heat map over two knobs (.png, .svg, .pdf)")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--ray", metavar="ADDRESS", help="run on Ray: local, auto (this machine's cluster), an address")
    where.add_argument("--slurm", type=int, metavar="JOBS", help="run as an array of so many Slurm jobs")
    where.add_argument("--share", metavar="I/N", help="run every N-th cell only, from the I-th on, and make no table")
    parser.add_argument(
        "--sbatch", action="append", default=[], metavar="OPTION", help="with --slurm: an option of sbatch's"
    )
    return parser


def _before(tasks: dict[str, CellTask], todo: list[CellTask]) -> str:
    """What an earlier command has left of them."""
    from harness.sweep.directory import open_tasks

    again = len(open_tasks(tasks, retry=True))
    there, failed = len(tasks) - again, again - len(todo)
    said = f", {there:,} of them there already" if there else ""
    return said + (f", {failed:,} failed before (--retry runs them again)" if failed else "")


def _warn(changed: list[Path], directory: Path, console: Console) -> None:
    """Say that cells which are kept may be of another program."""
    if changed:
        names = ", ".join(str(shortest(path)) for path in changed[:MOST_NAMED])
        more = f" and {len(changed) - MOST_NAMED} more files" if len(changed) > MOST_NAMED else ""
        have = "has" if len(changed) == 1 else "have"
        said = f"OLD RESULTS: {names}{more} {have} changed since some of these were run; "
        said += f"remove {directory} to run them again"
        console.print(said, style="yellow", markup=False, soft_wrap=True)


def _run(todo: list[CellTask], arguments: argparse.Namespace, directory: Path, console: Console) -> bool:
    """Run cells; returns whether all of them came to an end."""
    from harness.sweep.progress import SweepProgress

    begun_s = time.monotonic()
    try:
        with SweepProgress(console, len(todo)) as progress:
            for status in _ended(todo, arguments, directory) if todo else ():
                progress.count(status)
    except KeyboardInterrupt:
        return False
    if todo:
        console.print(f"{len(todo):,} cells in {time.monotonic() - begun_s:,.1f} s")
    return True


def _ended(todo: list[CellTask], arguments: argparse.Namespace, directory: Path) -> Iterator[Status]:
    """The cells as they end, wherever they are run."""
    if arguments.ray is not None:
        from harness.sweep.on_ray import run_on_ray

        return run_on_ray(todo, arguments.ray)
    if arguments.slurm is not None:
        from harness.sweep.on_slurm import run_on_slurm

        command = [*arguments.overrides, "--out", str(directory.absolute())]
        command += ["--keep-tables"] * arguments.keep_tables + ["--retry"] * arguments.retry
        command += [] if arguments.workers is None else ["--workers", str(arguments.workers)]
        return run_on_slurm(todo, command, arguments.slurm, arguments.sbatch, directory)
    from harness.sweep.pool import default_workers, run_locally

    workers = default_workers(task.config for task in todo) if arguments.workers is None else arguments.workers
    return run_locally(todo, workers)


def _conclude(directory: Path, plot: Path | None, console: Console) -> None:
    from harness.sweep.table import CELLS, conclude

    conclude(directory, console)
    if plot is not None:
        from harness.sweep.plot import plot_sweep

        plot_sweep(directory, plot)
        console.print(f"Plot: {plot}", markup=False)
    console.print(f"Cells: {directory / CELLS}; a page of them: python -m harness report {directory}", markup=False)

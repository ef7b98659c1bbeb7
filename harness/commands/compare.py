"""``harness compare RUN RUN ...``: a table of differences and an overlaid plot of distributions."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from harness.commands.parser import command_parser
from harness.exit_code import ExitCode
from harness.report.terminal import UNKNOWN, number, table_console

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from harness.metrics.compare import Cell, Comparison, Row
    from harness.metrics.files import Run
    from harness.metrics.importers.imported import ImportedRun

EXAMPLE = """\
examples:
  python -m harness run policy=radix hydra.run.dir=runs/radix
  python -m harness run policy=naive hydra.run.dir=runs/naive
  python -m harness compare runs/radix runs/naive
  python -m harness compare runs/2026-11-22/*
  python -m harness compare runs/radix vllm_result.json artifacts/aiperf benchmarks.json
"""
FROM_SEND = {"ttft_s": "ttft_from_send_s", "e2e_s": "e2e_from_send_s"}


def main(argv: Sequence[str]) -> ExitCode:
    """Compare runs with the first of them.

    Args:
        argv: Arguments after ``compare``.

    Returns:
        The exit code.
    """
    arguments = _parser().parse_args(argv)

    from harness.metrics.compare import CompareError, compare, measured
    from harness.metrics.schema import ended_ok
    from harness.report.figure import check_format
    from harness.report.latency_plot import TITLES, plot_cdfs

    check_format(arguments.plot)
    runs, skipped = _with_results(arguments.runs)
    if len(runs) < 2 and skipped:
        raise CompareError(f"compare needs two runs or more; of these it skipped {'; '.join(skipped)}")
    comparison = compare(runs)
    beside = runs[0].path if runs[0].path.is_dir() else runs[0].path.parent
    plot = arguments.plot or beside / "compare.png"
    curves = {}
    for name, run in zip(comparison.names, runs, strict=True):
        table = measured(run)
        if table is not None:
            curves[name] = {
                title: table[FROM_SEND.get(title, title) if comparison.from_send else title][ended_ok(table)]
                for title in TITLES
            }
    if curves:
        plot_cdfs(curves, plot)
    console = table_console()
    console.print(_table(comparison))
    plotted = [f"Plot: {plot}"] if curves else []
    for note in (comparison.pairing, *comparison.notes, *(f"Skipped {each}" for each in skipped), *plotted):
        console.print(note, soft_wrap=True, markup=False)
    return ExitCode.OK


def _with_results(paths: Sequence[Path]) -> tuple[list[Run | ImportedRun], list[str]]:
    """The runs to compare, and what a pattern such as ``runs/DAY/*`` names too, with why it is left out."""
    from harness.metrics.compare import CompareError, measured
    from harness.metrics.files import why_no_run
    from harness.metrics.importers import aiperf
    from harness.metrics.importers.load import load_runs

    kept, skipped = [], []
    for path in paths:
        why = why_no_run(path)
        if why is not None and not any((path / name).is_file() for name in (aiperf.RECORDS, aiperf.FIGURES)):
            skipped.append(f"{path}: {why}")
            continue
        for run in load_runs(path):
            try:
                measured(run)
                kept.append(run)
            except CompareError as error:
                skipped.append(str(error))
    return kept, skipped


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "compare", "Compare runs with the first: differences with 95 % bootstrap intervals, and a plot.", EXAMPLE
    )
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        metavar="RUN",
        help="run directory, or a result file of vLLM, SGLang, AIPerf or GuideLLM; the first is the baseline",
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="where the plot goes (compare.png in the first)")
    return parser


def _table(comparison: Comparison) -> Table:
    from rich.table import Table

    table = Table(title="Difference to the first run [95 % interval]", title_justify="left")
    table.add_column("metric", no_wrap=True)
    table.add_column("unit")
    first, *others = comparison.names
    table.add_column(first, justify="right", overflow="fold")
    for name in others:
        table.add_column(name, justify="right", overflow="fold")
        table.add_column("difference", justify="right")
    for row in comparison.rows:
        cells = [number(row.cells[0].value)]
        for cell in row.cells[1:]:
            cells += [number(cell.value), _difference(row, cell)]
        table.add_row(row.name, row.unit, *cells)
    return table


def _difference(row: Row, cell: Cell) -> str:
    if cell.difference is None:
        return UNKNOWN
    text = number(cell.difference, "+")
    base = (cell.value or 0.0) - cell.difference
    if base and row.unit != "%":
        text += f" ({100 * cell.difference / base:+.1f} %)"
    if cell.interval is not None:
        text += rf" \[{number(cell.interval[0], '+')}, {number(cell.interval[1], '+')}]"
    if not cell.significant:
        return text
    better = (cell.difference < 0) == row.smaller_is_better
    return f"[green]{text}[/]" if better else f"[red]{text}[/]"

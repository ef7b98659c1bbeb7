"""What came of a sweep, whoever ran its cells: one Parquet file and one table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.metrics.files import SUMMARY, RunError, at
from harness.report.sweep import Cell, failed_cells, load_cells, number_or_word, varied
from harness.report.terminal import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import Console

CELLS = "cells.parquet"
MOST_ROWS = 40  # of the table on the console; the file has them all
MOST_ERRORS = 5

GOODPUT = ("goodput", "requests_per_s")
TTFT_P99 = ("metrics", "ttft_s", "p99")
_COLUMNS: tuple[tuple[str, tuple[str, ...], float, str], ...] = (
    ("goodput req/s", GOODPUT, 1, "{:.2f}"),
    ("SLO met", ("goodput", "attainment"), 1, "{:.1%}"),
    ("req/s", ("throughput", "requests_per_s"), 1, "{:.2f}"),
    ("output tok/s", ("throughput", "output_tokens_per_s"), 1, "{:,.0f}"),
    ("TTFT p50 ms", ("metrics", "ttft_s", "p50"), 1e3, "{:,.0f}"),
    ("TTFT p99 ms", TTFT_P99, 1e3, "{:,.0f}"),
    ("TPOT p50 ms", ("metrics", "tpot_s", "p50"), 1e3, "{:.2f}"),
    ("E2E p50 s", ("metrics", "e2e_s", "p50"), 1, "{:.2f}"),
    ("hit ratio", ("cache", "hit_ratio"), 1, "{:.1%}"),
    ("preempted", ("cache", "preemptions"), 1, "{:,.0f}"),
)
_KEPT = ("complete", "metrics", "throughput", "goodput", "cache", "load", "counts")  # of a summary, in the file


def conclude(directory: Path, console: Console) -> None:
    """Write ``cells.parquet`` into the directory of a sweep, of ours or of Hydra's, and print its table.

    Where no cell has ended yet there is neither.

    Raises:
        RunError: A file cannot be read or written.
    """
    ended = load_cells(directory) if any(directory.rglob(SUMMARY)) else []
    cells = [*ended, *failed_cells(directory)]
    if not cells:
        return
    knobs = varied(cells)
    words = list(zip(*knobs.values(), strict=True)) if knobs else [()] * len(cells)
    order = sorted(range(len(cells)), key=lambda row: [number_or_word(word) for word in words[row]])
    write_cells([cells[row] for row in order], directory)
    named = [
        (" ".join(f"{knob}={word}" for knob, word in zip(knobs, words[row], strict=True)), cells[row]) for row in order
    ]
    rows = [(name, cell) for name, cell in named if not cell.error]
    failed = [(name, cell) for name, cell in named if cell.error]
    if rows:
        _print_table(console, rows)
    for name, cell in failed[:MOST_ERRORS]:
        console.print(f"failed: {name}: {cell.error}", style="red", markup=False, soft_wrap=True)
    if len(failed) > MOST_ERRORS:
        console.print(f"failed: {len(failed) - MOST_ERRORS} more; their reasons are in {CELLS}", style="red")


def write_cells(cells: Sequence[Cell], directory: Path) -> Path:
    """Write ``cells.parquet``: a row a cell.

    Its columns are ``run`` (the cell's directory), the knobs that vary, every number of the summary by its dotted name
    (``metrics.ttft_s.p99``, null where unknown; ``.low`` and ``.high`` of an interval), and ``error``.

    Raises:
        RunError: It cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns: dict[str, list[Any]] = {"run": [cell.path.relative_to(directory).as_posix() for cell in cells]}
    columns |= {knob: _typed(column) for knob, column in varied(cells).items()}
    figures = [_numbers({key: cell.summary.get(key) for key in _KEPT}) for cell in cells]
    names = dict.fromkeys(name for row in figures for name in row)
    columns |= {name: [row.get(name) for row in figures] for name in names}
    columns["error"] = [cell.error or None for cell in cells]
    table = pa.table({name: pa.array(values) for name, values in columns.items()})
    path = directory / CELLS
    try:
        partial = path.with_name(f"{CELLS}.partial")
        pq.write_table(table, partial, compression="zstd")
        partial.replace(path)
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror or error})") from error
    return path


def _numbers(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    numbers: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            numbers |= _numbers(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            numbers |= _numbers(dict(zip(("low", "high"), value, strict=True)), f"{prefix}{key}.")
        elif isinstance(value, int | float):
            numbers[f"{prefix}{key}"] = value
    return numbers


def _typed(words: Sequence[str]) -> list[Any]:
    """A knob's values as numbers where all of them are; null is null."""
    for kind in (int, float):
        try:
            return [None if word == "null" else kind(word) for word in words]
        except ValueError:
            continue
    return list(words)


def _print_table(console: Console, rows: list[tuple[str, Cell]]) -> None:
    from rich.table import Table

    title, shown = f"{len(rows):,} cells", rows
    if len(rows) > MOST_ROWS:
        shown, what = _best(rows)
        title += f", the {MOST_ROWS} with {what}"
    table = Table(title=title)
    table.add_column("run", overflow="fold")
    columns = [column for column in _COLUMNS if any(_figure(cell, column[1]) is not None for _, cell in shown)]
    for heading, *_ in columns:
        table.add_column(heading.replace(" ", "\n", 1), justify="right", no_wrap=True)  # figures stay whole
    for name, cell in shown:
        figures = [(_figure(cell, path), scale, form) for _, path, scale, form in columns]
        table.add_row(
            name, *(UNKNOWN if value is None else form.format(value * scale) for value, scale, form in figures)
        )
    console.print(table)


def _best(rows: list[tuple[str, Cell]]) -> tuple[list[tuple[str, Cell]], str]:
    """The rows to show of many, and by what they were chosen."""

    def goodput(row: tuple[str, Cell]) -> float:
        return -(_figure(row[1], GOODPUT) or 0.0)

    def ttft(row: tuple[str, Cell]) -> float:
        known = _figure(row[1], TTFT_P99)
        return float("inf") if known is None else known

    if any(goodput(row) for row in rows):
        return sorted(rows, key=goodput)[:MOST_ROWS], "the most goodput"
    return sorted(rows, key=ttft)[:MOST_ROWS], "the lowest TTFT p99"


def _figure(cell: Cell, path: tuple[str, ...]) -> float | None:
    value = at(cell.summary, path)
    return None if value is None else float(value)

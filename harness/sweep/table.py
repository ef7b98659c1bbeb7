"""What came of a sweep, whoever ran its cells: one Parquet file and one table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from harness.metrics.files import SUMMARY, RunError
from harness.report.replicates import Setting, method, settings_of
from harness.report.sweep import Cell, failed_cells, load_cells, number_or_word, varied
from harness.report.terminal import UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import Console

    from harness.metrics.student import Estimate

CELLS = "cells.parquet"
MOST_ROWS = 40  # of the table on the console; the file has them all
MOST_ERRORS = 5


class Column(NamedTuple):
    """A column of the table on the console.

    Attributes:
        heading: With its unit.
        path: Keys that lead to it in a summary.
        scale: From the summary's unit to the heading's.
        form: Of a figure.
        smaller_is_better: Where runs are chosen by it.
    """

    heading: str
    path: tuple[str, ...]
    scale: float
    form: str
    smaller_is_better: bool = False


GOODPUT = Column("goodput req/s", ("goodput", "requests_per_s"), 1, "{:.2f}")
TTFT_P99 = Column("TTFT p99 ms", ("metrics", "ttft_s", "p99"), 1e3, "{:,.0f}", smaller_is_better=True)
_COLUMNS = (
    GOODPUT,
    Column("SLO met", ("goodput", "attainment"), 1, "{:.1%}"),
    Column("req/s", ("throughput", "requests_per_s"), 1, "{:.2f}"),
    Column("output tok/s", ("throughput", "output_tokens_per_s"), 1, "{:,.0f}"),
    Column("TTFT p50 ms", ("metrics", "ttft_s", "p50"), 1e3, "{:,.0f}"),
    TTFT_P99,
    Column("TPOT p50 ms", ("metrics", "tpot_s", "p50"), 1e3, "{:.2f}"),
    Column("E2E p50 s", ("metrics", "e2e_s", "p50"), 1, "{:.2f}"),
    Column("hit ratio", ("cache", "hit_ratio"), 1, "{:.1%}"),
    Column("preempted", ("cache", "preemptions"), 1, "{:,.0f}"),
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
    failed = [(name, cell) for name, cell in named if cell.error]
    if ended:
        _print_table(console, *settings_of([cell for _, cell in named if not cell.error]))
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


def _print_table(console: Console, settings: list[Setting], seeds: list[str]) -> None:
    """A row a setting; where seeds vary each figure is a mean with its interval, and settings are held to the best."""
    from rich.table import Table

    chosen_by = GOODPUT if any((each.estimate(GOODPUT.path) or (0.0,))[0] for each in settings) else TTFT_P99
    ranked = sorted(settings, key=lambda setting: _rank(setting, chosen_by))
    shown = settings if len(settings) <= MOST_ROWS else ranked[:MOST_ROWS]
    title = f"{len(settings):,} {'setting' if seeds else 'cell'}{'s' if len(settings) > 1 else ''}"
    if len(shown) < len(settings):
        title += f", the {MOST_ROWS} with the {'lowest' if chosen_by.smaller_is_better else 'most'} " + (
            f"{'mean ' if seeds else ''}{chosen_by.heading.rpartition(' ')[0]}"
        )
    table = Table(title=title)
    table.add_column("run", overflow="fold")
    columns = [column for column in _COLUMNS if any(each.figures(column.path) for each in shown)]
    for column in columns:
        table.add_column(column.heading.replace(" ", "\n", 1), justify="right", no_wrap=True)  # figures stay whole
    held = bool(seeds) and len(settings) > 1 and bool(ranked[0].figures(chosen_by.path))
    if held:
        table.add_column(f"{chosen_by.heading.rpartition(' ')[0]}\nto the best", justify="right", no_wrap=True)
    for setting in shown:
        figures = [_figure(setting.estimate(column.path), column) for column in columns]
        if held and setting is ranked[0]:
            figures.append("best")
        elif held:
            figures.append(_figure(setting.difference(ranked[0], chosen_by.path), chosen_by, "{:+,.3g}"))
        table.add_row(setting.name or "all", *figures)
    console.print(table)
    if seeds:
        paired = "; differences to the best are paired by seed" if held else ""
        console.print(f"Figures: {method(settings, seeds)}{paired}.", markup=False, soft_wrap=True)


def _rank(setting: Setting, column: Column) -> float:
    """By which settings are sorted, the best first."""
    found = setting.estimate(column.path)
    if found is None:
        return float("inf")
    return found.mean if column.smaller_is_better else -found.mean


def _figure(found: Estimate | None, column: Column, form: str = "") -> str:
    """A mean, and below it half of its interval."""
    if found is None:
        return UNKNOWN
    form = form or column.form
    text = form.format(found.mean * column.scale)
    return text if found.half is None else f"{text}\n±{form.replace('+', '').format(found.half * column.scale)}"

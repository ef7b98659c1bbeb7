"""Runs side by side: each metric's value, its difference to the first run and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.metrics.difference import independent_difference, mean_difference, quantile_difference
from harness.metrics.importers.exported import scaled
from harness.metrics.importers.imported import ImportedRun
from harness.metrics.sample import Sample
from harness.metrics.schema import NULL, ended_ok, select

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from harness.metrics.difference import Interval, Pairs
    from harness.metrics.files import Run
    from harness.metrics.schema import Array, Columns

QUANTILES = {"p50": 0.5, "p99": 0.99}
THROUGHPUTS = {
    "request throughput": ("requests_per_s", "req/s"),
    "output throughput": ("output_tokens_per_s", "tok/s"),
    "total token throughput": ("total_tokens_per_s", "tok/s"),
}


class CompareError(ValueError):
    """Runs that cannot be compared; the message says why."""


@dataclass(frozen=True)
class Cell:
    """One run's value of a row.

    Attributes:
        value: In the row's unit; None if unknown.
        difference: To the first run; None for the first run itself, or if unknown.
        interval: 95 % bootstrap interval of the difference; None where one run gives no sample to draw from.
    """

    value: float | None
    difference: float | None = None
    interval: Interval | None = None

    @property
    def significant(self) -> bool:
        """Whether the interval of the difference leaves out zero."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]


@dataclass(frozen=True)
class Row:
    """One statistic of one metric, a cell a run."""

    name: str
    unit: str
    smaller_is_better: bool
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Comparison:
    """Runs side by side.

    Attributes:
        names: Of the runs, short and distinct.
        from_send: TTFT and E2E count from sending, because one of the runs knows no intended arrivals.
        paired: Whether each run is paired with the first by request_id; the first is.
        rows: In the order to print.
        notes: What a reader must know to trust the differences.
    """

    names: tuple[str, ...]
    from_send: bool
    paired: tuple[bool, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    @property
    def pairing(self) -> str:
        """Which requests the differences are paired by, for the reader."""
        if all(self.paired):
            return "Same trace: requests are paired by request_id."
        if any(self.paired[1:]):
            return "Paired by request_id where the trace is that of the first run."
        return "Different traces: requests are not paired."


def compare(runs: Sequence[Run | ImportedRun]) -> Comparison:
    """Compare runs with the first of them.

    Where a run of another tool knows no intended arrivals, TTFT and E2E of all runs count from sending, as that tool
    counts them.

    Args:
        runs: Two or more; the first is what the others are held against.

    Returns:
        Latencies in milliseconds (ok requests, warm-up left out), throughput, hit ratio and goodput.

    Raises:
        CompareError: Fewer than two runs, or one of them measured no request that ended ok.
        RunError: A table of a run cannot be read.
    """
    if len(runs) < 2:
        raise CompareError("compare needs two runs or more: harness compare RUN RUN ...")
    from_send = any(_counts_from_send(run) for run in runs)
    origin, label = ("_from_send", " from send") if from_send else ("", "")
    tables = [measured(run) for run in runs]
    pairs = [pair_rows(tables[0], other) if tables[0] and other else None for other in tables]
    hit_ratios = [_values(table, lambda known: 100 * _hit_ratio_by_request(known)) for table in tables]
    rows = (
        *_latency_rows(f"TTFT{label}", f"ttft{origin}_s", runs, tables, pairs),
        *_latency_rows("TPOT", "tpot_s", runs, tables, pairs),
        *_itl_rows(runs),
        *_latency_rows(f"E2E{label}", f"e2e{origin}_s", runs, tables, pairs),
        *_throughput_rows(runs),
        Row("cache hit ratio", "%", smaller_is_better=False, cells=_mean_cells(hit_ratios, pairs)),
        *_goodput_rows(runs, tables, pairs),
    )
    return Comparison(
        names=run_names(runs),
        from_send=from_send,
        paired=tuple(pair is not None for pair in pairs),
        rows=tuple(row for row in rows if any(cell.value is not None for cell in row.cells)),
        notes=_notes(runs, pairs),
    )


def pair_rows(first: Columns, other: Columns) -> Pairs | None:
    """Rows of two tables that are the same requests, or None where the traces differ.

    Traces are the same if they have the same request ids, each once, with the same prompt lengths and, where
    both ended ok, the same output lengths.

    Returns:
        Two int64 [requests]: row in ``first`` and row in ``other``.
    """
    in_first, in_other = (np.argsort(table["request_id"], kind="stable") for table in (first, other))
    ids = first["request_id"][in_first]
    if not np.array_equal(ids, other["request_id"][in_other]) or bool((ids[1:] == ids[:-1]).any()):
        return None
    both_ok = ended_ok(first)[in_first] & ended_ok(other)[in_other]
    same_prompts = first["prompt_tokens"][in_first] == other["prompt_tokens"][in_other]
    same_outputs = first["output_tokens"][in_first] == other["output_tokens"][in_other]
    same = bool(same_prompts.all()) and bool((same_outputs | ~both_ok).all())
    return (in_first, in_other) if same else None


def measured(run: Run | ImportedRun) -> dict[str, Array] | None:
    """The run's request table without its warm-up; None where another tool's file holds figures only.

    Raises:
        CompareError: No request ended ok.
        RunError: The table cannot be read.
    """
    if run.columns is None:
        return None
    table = select(run.columns, run.columns["warmup"] == 0)
    if not ended_ok(table).any():
        raise CompareError(f"{run.path}: no request of this run ended ok, there is nothing to compare")
    return table


def _counts_from_send(run: Run | ImportedRun) -> bool:
    return isinstance(run, ImportedRun) and run.from_send


def _values(table: Columns | None, of: Callable[[Columns], Array]) -> Array:
    """Values by request; none where the requests are not known."""
    return np.empty(0) if table is None else of(table)


def _latency_rows(
    metric: str,
    column: str,
    runs: Sequence[Run | ImportedRun],
    tables: Sequence[Columns | None],
    pairs: Sequence[Pairs | None],
) -> list[Row]:
    values = [_values(table, lambda known: np.where(ended_ok(known), known[column], np.nan) * 1e3) for table in tables]
    samples = [Sample(value) for value in values]
    intervals = [mean_difference(values[0], value, pair) for value, pair in zip(values, pairs, strict=True)]
    points = [sample.mean if sample.count else None for sample in samples]
    rows = [_latency_row(metric, "mean", column, runs, points, intervals)]
    for name, p in QUANTILES.items():
        points = [float(sample.quantile(p)) if sample.count else None for sample in samples]
        intervals = [quantile_difference(values[0], value, pair, p) for value, pair in zip(values, pairs, strict=True)]
        rows.append(_latency_row(metric, name, column, runs, points, intervals))
    return rows


def _latency_row(
    metric: str,
    statistic: str,
    column: str,
    runs: Sequence[Run | ImportedRun],
    points: Sequence[float | None],
    intervals: Sequence[Interval | None],
) -> Row:
    """A row whose values are taken from the summary where the requests are not known."""
    filled = [
        scaled(run.summary["metrics"][column][statistic], 1e3) if run.columns is None else point
        for run, point in zip(runs, points, strict=True)
    ]
    return Row(f"{metric} {statistic}", "ms", smaller_is_better=True, cells=_cells(filled, intervals))


def _itl_rows(runs: Sequence[Run | ImportedRun]) -> list[Row]:
    """ITL as the summaries have it: pooled over requests, so that it cannot be paired."""
    metrics = [run.summary["metrics"]["itl_s"] for run in runs]
    rows = []
    for statistic in ("mean", *QUANTILES):
        points = [scaled(metric[statistic], 1e3) for metric in metrics]
        known = [_interval_ms(metric["ci95"][statistic]) for metric in metrics]
        intervals = [_independent((points[0], known[0]), other) for other in zip(points, known, strict=True)]
        rows.append(Row(f"ITL {statistic}", "ms", smaller_is_better=True, cells=_cells(points, intervals)))
    return rows


def _interval_ms(interval_s: Sequence[float] | None) -> Interval | None:
    return None if interval_s is None else (interval_s[0] * 1e3, interval_s[1] * 1e3)


def _independent(
    first: tuple[float | None, Interval | None], other: tuple[float | None, Interval | None]
) -> Interval | None:
    if first[0] is None or first[1] is None or other[0] is None or other[1] is None:
        return None
    return independent_difference(first[0], first[1], other[0], other[1])


def _throughput_rows(runs: Sequence[Run | ImportedRun]) -> list[Row]:
    """One number a run: without a sample there is no interval."""
    throughputs = [run.summary["throughput"] for run in runs]
    return [
        Row(name, unit, smaller_is_better=False, cells=_cells([throughput[key] for throughput in throughputs]))
        for name, (key, unit) in THROUGHPUTS.items()
    ]


def _goodput_rows(
    runs: Sequence[Run | ImportedRun], tables: Sequence[Columns | None], pairs: Sequence[Pairs | None]
) -> list[Row]:
    goodputs = [run.summary["goodput"]["requests_per_s"] for run in runs]
    met = [
        _values(table, lambda known: np.where(known["slo_met"] == NULL, np.nan, known["slo_met"]) * 100)
        for table in tables
    ]
    return [
        Row("goodput", "req/s", smaller_is_better=False, cells=_cells(goodputs)),
        Row("SLO attainment", "%", smaller_is_better=False, cells=_mean_cells(met, pairs)),
    ]


def _hit_ratio_by_request(table: Columns) -> Array:
    """Values whose mean is cached over prompt tokens of all requests, and varies as that ratio does.

    The ratio plus each request's influence on it (the delta method for a ratio of means); NaN where unknown.
    """
    known = table["cached_tokens"] != NULL
    cached, prompt = table["cached_tokens"][known], table["prompt_tokens"][known]
    values = np.full(len(known), np.nan)
    if prompt.sum():
        ratio = cached.sum() / prompt.sum()
        values[known] = ratio + (cached - ratio * prompt) / prompt.mean()
    return values


def _mean_cells(values: Sequence[Array], pairs: Sequence[Pairs | None]) -> tuple[Cell, ...]:
    points = [None if np.isnan(value).all() else float(np.nanmean(value)) for value in values]
    intervals = [mean_difference(values[0], value, pair) for value, pair in zip(values, pairs, strict=True)]
    return _cells(points, intervals)


def _cells(points: Sequence[float | None], intervals: Sequence[Interval | None] = ()) -> tuple[Cell, ...]:
    first, *others = points
    cells = [Cell(first)]
    for position, point in enumerate(others, start=1):
        known = point is not None and first is not None
        interval = intervals[position] if intervals and known else None
        cells.append(Cell(point, point - first if point is not None and first is not None else None, interval))
    return tuple(cells)


def run_names(runs: Sequence[Run | ImportedRun]) -> tuple[str, ...]:
    """The last parts of each run's path, as many as make them distinct."""
    parts = [run.path.resolve().parts for run in runs]
    for length in range(1, max(map(len, parts))):
        names = tuple("/".join(path[-length:]) for path in parts)
        if len(set(names)) == len(names):
            return names
    return tuple(f"{path[-1]} ({position})" for position, path in enumerate(parts, start=1))


def _notes(runs: Sequence[Run | ImportedRun], pairs: Sequence[Pairs | None]) -> tuple[str, ...]:
    notes = []
    for name, run, pair in zip(run_names(runs), runs, pairs, strict=True):
        if isinstance(run, ImportedRun):
            notes.append(f"{name}: measured by {run.tool}{_imported(run)}")
        if run.columns is not None and pair is None:
            notes.append(f"{name}: not the trace of the first run, so compared unpaired")
        if run.summary["goodput"]["limits"] != runs[0].summary["goodput"]["limits"]:
            notes.append(f"{name}: held to another SLO than the first run, goodput is not comparable")
        if run.summary["load"]["degraded"]:
            notes.append(f"{name}: degraded, the client sent late")
        if not run.complete:
            notes.append(f"{name}: incomplete, the run was interrupted")
    return tuple(notes)


def _imported(run: ImportedRun) -> str:
    origin = ", which knows no intended arrivals: TTFT and E2E of all runs count from sending" if run.from_send else ""
    return origin + ("; its file holds figures only, so no intervals" if run.columns is None else "")

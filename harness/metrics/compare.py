"""Runs side by side: each metric's value, its difference to the first run and how sure that is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.metrics.difference import independent_difference, mean_difference, quantile_difference
from harness.metrics.sample import Sample
from harness.metrics.schema import NULL, ended_ok, select

if TYPE_CHECKING:
    from collections.abc import Sequence

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
        paired: Whether each run is paired with the first by request_id; the first is.
        rows: In the order to print.
        notes: What a reader must know to trust the differences.
    """

    names: tuple[str, ...]
    paired: tuple[bool, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]


def compare(runs: Sequence[Run]) -> Comparison:
    """Compare runs with the first of them.

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
    tables = [measured(run) for run in runs]
    pairs = [pair_rows(tables[0], other) for other in tables]
    hit_ratios = [100 * _hit_ratio_by_request(table) for table in tables]
    rows = (
        *_latency_rows("TTFT", [_latency_ms(table, "ttft_s") for table in tables], pairs),
        *_latency_rows("TPOT", [_latency_ms(table, "tpot_s") for table in tables], pairs),
        *_itl_rows(runs),
        *_latency_rows("E2E", [_latency_ms(table, "e2e_s") for table in tables], pairs),
        *_throughput_rows(runs),
        Row("cache hit ratio", "%", smaller_is_better=False, cells=_mean_cells(hit_ratios, pairs)),
        *_goodput_rows(runs, tables, pairs),
    )
    return Comparison(
        names=_names(runs),
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


def measured(run: Run) -> dict[str, Array]:
    """The run's request table without its warm-up.

    Raises:
        CompareError: No request ended ok.
        RunError: The table cannot be read.
    """
    table = select(run.columns, run.columns["warmup"] == 0)
    if not ended_ok(table).any():
        raise CompareError(f"{run.path}: no request of this run ended ok, there is nothing to compare")
    return table


def _latency_ms(table: Columns, column: str) -> Array:
    return np.where(ended_ok(table), table[column], np.nan) * 1e3


def _latency_rows(metric: str, values: Sequence[Array], pairs: Sequence[Pairs | None]) -> list[Row]:
    rows = [Row(f"{metric} mean", "ms", smaller_is_better=True, cells=_mean_cells(values, pairs))]
    for name, p in QUANTILES.items():
        samples = [Sample(value) for value in values]
        points = [float(sample.quantile(p)) if sample.count else None for sample in samples]
        intervals = [quantile_difference(values[0], value, pair, p) for value, pair in zip(values, pairs, strict=True)]
        rows.append(Row(f"{metric} {name}", "ms", smaller_is_better=True, cells=_cells(points, intervals)))
    return rows


def _itl_rows(runs: Sequence[Run]) -> list[Row]:
    """ITL as the summaries have it: pooled over requests, so that it cannot be paired."""
    metrics = [run.summary["metrics"]["itl_s"] for run in runs]
    rows = []
    for statistic in ("mean", *QUANTILES):
        points = [_scaled(metric[statistic], 1e3) for metric in metrics]
        intervals: list[Interval | None] = [None] * len(runs)
        if all(metric["count"] for metric in metrics):
            first, *_ = known = [
                (metric[statistic] * 1e3, tuple(np.multiply(metric["ci95"][statistic], 1e3))) for metric in metrics
            ]
            intervals = [independent_difference(*first, *other) for other in known]
        rows.append(Row(f"ITL {statistic}", "ms", smaller_is_better=True, cells=_cells(points, intervals)))
    return rows


def _throughput_rows(runs: Sequence[Run]) -> list[Row]:
    """One number a run: without a sample there is no interval."""
    throughputs = [run.summary["throughput"] for run in runs]
    return [
        Row(name, unit, smaller_is_better=False, cells=_cells([throughput[key] for throughput in throughputs]))
        for name, (key, unit) in THROUGHPUTS.items()
    ]


def _goodput_rows(runs: Sequence[Run], tables: Sequence[Columns], pairs: Sequence[Pairs | None]) -> list[Row]:
    goodputs = [run.summary["goodput"]["requests_per_s"] for run in runs]
    met = [np.where(table["slo_met"] == NULL, np.nan, table["slo_met"]) * 100 for table in tables]
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


def _scaled(value: float | None, scale: float) -> float | None:
    return None if value is None else value * scale


def _names(runs: Sequence[Run]) -> tuple[str, ...]:
    """The last parts of each run's path, as many as make them distinct."""
    parts = [run.path.resolve().parts for run in runs]
    for length in range(1, max(map(len, parts))):
        names = tuple("/".join(path[-length:]) for path in parts)
        if len(set(names)) == len(names):
            return names
    return tuple(f"{path[-1]} ({position})" for position, path in enumerate(parts, start=1))


def _notes(runs: Sequence[Run], pairs: Sequence[Pairs | None]) -> tuple[str, ...]:
    notes = []
    for name, run, pair in zip(_names(runs), runs, pairs, strict=True):
        if pair is None:
            notes.append(f"{name}: not the trace of the first run, so compared unpaired")
        if run.summary["goodput"]["limits"] != runs[0].summary["goodput"]["limits"]:
            notes.append(f"{name}: held to another SLO than the first run, goodput is not comparable")
        if run.summary["load"]["degraded"]:
            notes.append(f"{name}: degraded, the client sent late")
        if not run.complete:
            notes.append(f"{name}: incomplete, the run was interrupted")
    return tuple(notes)

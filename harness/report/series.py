"""What the charts of the HTML report draw: a run's tables thinned to a few hundred points, and sampled requests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from harness.complaint import first_line
from harness.metrics.files import STEPS, RunError
from harness.metrics.schema import NULL, PHASES, ended_ok, select
from harness.metrics.stages import STAGES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from harness.metrics.files import Run
    from harness.metrics.schema import Array, Columns

CURVE_POINTS = 200
BINS = 120
BIN_REQUESTS = 20  # requests a bin of time should hold, for a median of them to mean something
PICKED = 30  # requests of a waterfall
SHORTEST_S = 1e-4  # what is shorter is drawn as this on a logarithmic axis
DIGITS = 5

LATENCIES = {
    "ttft_s": "Time to first token",
    "tpot_s": "Time per output token",
    "e2e_s": "End-to-end latency",
    "queue_s": "Time in the queue",
}
_STEP_COLUMNS = (
    "start_s",
    "duration_s",
    "phase",
    "prefill_tokens",
    "decode_tokens",
    "sequences",
    "waiting",
    "running",
    "pages_used",
    "pages_cached",
    "pages_free",
)


def page_series(runs: Sequence[Run]) -> dict[str, Any]:
    """The charts of some runs, overlaid: plain data for the page's script.

    Returns:
        charts (by group: latency, time), phases (shares of the engine's time) and waterfalls, an entry a run.

    Raises:
        RunError: A table of a run cannot be read.
    """
    tables = [select(run.columns, run.columns["warmup"] == 0) for run in runs]
    steps = [read_steps(run) for run in runs]
    scale, unit = _time_unit(max((_span_s(table) for table in tables), default=0.0))
    return {
        "latency": _distributions(tables),
        "time": _over_time(tables, steps, scale, unit),
        "phases": [None if each is None else _phases(each) for each in steps],
        "stages": [stage.name for stage in STAGES],
        "waterfalls": [_waterfall(table) for table in tables],
    }


def read_steps(run: Run) -> dict[str, Array] | None:
    """The columns of a run's step table that the charts need, without the half second that pandas takes.

    Returns:
        int64 or float64 arrays [steps], NaN for null and ``phase`` as a code; None where the run has no steps.

    Raises:
        RunError: The file cannot be read.
    """
    path = run.path / STEPS
    if not path.is_file():
        return None
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, columns=list(_STEP_COLUMNS))
    except (pa.ArrowException, OSError) as error:
        raise RunError(f"{path}: not a table of steps that can be read ({first_line(error)})") from error
    if not table.num_rows:
        return None
    columns: dict[str, Array] = {}
    for name in _STEP_COLUMNS:
        column = table[name].combine_chunks()
        if name == "phase":
            codes = np.array([PHASES.index(word.as_py()) for word in column.dictionary])
            columns[name] = codes[column.indices.to_numpy()]
        else:
            columns[name] = column.to_numpy(zero_copy_only=False)
    return columns


def _distributions(tables: Sequence[Columns]) -> list[dict[str, Any]]:
    share = np.concatenate([np.linspace(0, 0.98, CURVE_POINTS - 50), np.linspace(0.98, 1, 51)[1:]])
    charts = []
    for column, title in LATENCIES.items():
        lines = []
        for run, table in enumerate(tables):
            values = table[column][ended_ok(table)]
            values = values[~np.isnan(values)]
            if len(values):
                curve = np.maximum(np.quantile(values, share), SHORTEST_S)
                if curve[-1] > SHORTEST_S:
                    lines.append(line(run, "", curve, 100 * share))
        x = {"label": "time, log", "kind": "duration", "log": True}
        y = {"label": "requests (%)", "kind": "percent", "max": 100, "ticks": [0, 25, 50, 75, 90, 99]}
        charts.append({"title": title, "x": x, "y": y, "lines": lines})
    return [chart for chart in charts if chart["lines"]]


def _over_time(
    tables: Sequence[Columns], steps: Sequence[Columns | None], scale: float, unit: str
) -> list[dict[str, Any]]:
    x = {"label": f"time since the start ({unit})", "kind": "number", "tight": False}

    def chart(title: str, y: dict[str, Any], of: Sequence[list[tuple[str, Array, Array]]]) -> dict[str, Any]:
        lines = [
            line(run, name, at_s / scale, values, dashed=position > 0)
            for run, each in enumerate(of)
            for position, (name, at_s, values) in enumerate(each)
            if not np.isnan(values).all()
        ]
        return {"title": title, "x": x, "y": y, "lines": lines}

    known = [{} if each is None else _steps_by_time(each) for each in steps]
    requests = [_requests_by_time(table) for table in tables]
    seconds = {"label": "TTFT", "kind": "duration", "log": _spread([each["ttft"] for each in requests])}
    tokens = {"label": "tokens per second", "kind": "count"}
    charts = [
        chart("TTFT, by arrival", seconds, [each["ttft"] for each in requests]),
        chart(
            "Requests queued and running", {"label": "requests", "kind": "count"}, [e.get("queue", []) for e in known]
        ),
        chart("KV memory", {"label": "pages (%)", "kind": "percent", "max": 100}, [e.get("kv", []) for e in known]),
        chart(
            "Batch: sequences in a step", {"label": "sequences", "kind": "count"}, [e.get("batch", []) for e in known]
        ),
        chart("Tokens computed", tokens, [e.get("tokens", []) for e in known]),
        chart(
            "Prefix cache hit ratio, by arrival",
            {"label": "prompt tokens (%)", "kind": "percent", "max": 100},
            [each["hits"] for each in requests],
        ),
        chart(
            "SLO attainment, by arrival",
            {"label": "requests (%)", "kind": "percent", "max": 100},
            [each["slo"] for each in requests],
        ),
    ]
    return [each for each in charts if each["lines"]]


def _requests_by_time(table: Columns) -> dict[str, list[tuple[str, Array, Array]]]:
    order = np.argsort(table["arrival_s"], kind="stable")
    arrival_s = table["arrival_s"][order]
    count = int(np.clip(len(order) // BIN_REQUESTS, 1, BINS))
    edges, at_s = _bins(arrival_s[0], arrival_s[-1], count) if len(order) else (np.zeros(2), np.zeros(1))
    cuts = np.searchsorted(arrival_s, edges[1:-1])

    def each(values: Array, of: Any) -> Array:
        parts = [part[~np.isnan(part)] for part in np.split(values[order], cuts)]
        return np.array([of(part) if len(part) else np.nan for part in parts])

    def share(part: Array, whole: Array) -> Array:
        known = (part != NULL) & (whole != NULL)
        above, below = (
            np.array([piece.sum() for piece in np.split(np.where(known, values, 0)[order], cuts)], dtype=np.float64)
            for values in (part, whole)
        )
        result: Array = np.divide(100 * above, below, out=np.full(len(below), np.nan), where=below > 0)
        return result

    ttft_s = np.where(ended_ok(table), table["ttft_s"], np.nan)
    met = table["slo_met"]
    return {
        "ttft": [
            ("p50", at_s, each(ttft_s, np.median)),
            ("p99", at_s, each(ttft_s, lambda part: np.quantile(part, 0.99))),
        ],
        "hits": [
            ("cached", at_s, share(table["cached_tokens"], table["prompt_tokens"])),
            ("unbounded cache", at_s, share(table["ideal_cached_tokens"], table["prompt_tokens"])),
        ],
        "slo": [("met", at_s, share(met, np.where(met == NULL, NULL, 1)))],
    }


def _steps_by_time(steps: Columns) -> dict[str, list[tuple[str, Array, Array]]]:
    start_s = steps["start_s"]
    edges, at_s = _bins(float(start_s.min()), float((start_s + steps["duration_s"]).max()), BINS)
    bins = np.clip(np.searchsorted(edges, start_s, side="right") - 1, 0, BINS - 1)
    count = np.bincount(bins, minlength=BINS)

    def mean(values: Array) -> Array:
        sums: Array = np.bincount(bins, values, BINS)
        result: Array = np.divide(sums, count, out=np.zeros(BINS), where=count > 0)
        return result

    def most(values: Array) -> Array:
        largest = np.zeros(BINS)
        np.maximum.at(largest, bins, values)
        return largest

    def seen(values: Array) -> Array:
        """The mean of a state that only a step tells; NaN while none runs."""
        return np.where(count > 0, mean(values), np.nan)

    pages = steps["pages_used"] + steps["pages_cached"] + steps["pages_free"]
    width_s = edges[1] - edges[0]
    return {
        "queue": [("waiting, most", at_s, most(steps["waiting"])), ("running, most", at_s, most(steps["running"]))],
        "kv": [
            ("used by running sequences", at_s, seen(100 * steps["pages_used"] / pages)),
            ("with what is only cached", at_s, seen(100 * (steps["pages_used"] + steps["pages_cached"]) / pages)),
        ],
        "batch": [("mean", at_s, mean(steps["sequences"])), ("most", at_s, most(steps["sequences"]))],
        "tokens": [
            ("decoded", at_s, np.bincount(bins, steps["decode_tokens"], BINS) / width_s),
            ("prefilled", at_s, np.bincount(bins, steps["prefill_tokens"], BINS) / width_s),
        ],
    }


def _phases(steps: Columns) -> dict[str, float]:
    """Shares of the engine's time, percent: prefill, decode, mixed and idle."""
    start_s, end_s = float(steps["start_s"].min()), float((steps["start_s"] + steps["duration_s"]).max())
    busy = np.bincount(steps["phase"], steps["duration_s"], len(PHASES)) * 100 / max(end_s - start_s, 1e-12)
    shares = dict(zip(PHASES, busy.tolist(), strict=True))
    return {name: round(share, 2) for name, share in (shares | {"idle": max(0.0, 100 - busy.sum())}).items()}


def _waterfall(table: Columns) -> dict[str, list[dict[str, Any]]]:
    """Requests by how they were picked; their stages in milliseconds from arrival, null where a moment is unknown."""
    rows = np.flatnonzero(~np.isnan(table["client_last_token_s"]))

    def slowest(column: str) -> Array:
        return rows[np.argsort(-table[column][rows], kind="stable")][:PICKED]

    even = (
        rows[np.unique(np.linspace(0, len(rows) - 1, min(PICKED, len(rows))).round().astype(int))]
        if len(rows)
        else rows
    )
    picks = {"evenly spaced": even, "slowest to first token": slowest("ttft_s"), "slowest end to end": slowest("e2e_s")}
    return {name: [_life(table, row) for row in picked.tolist()] for name, picked in picks.items()}


def _life(table: Columns, row: int) -> dict[str, Any]:
    arrival_s = table["arrival_s"][row]
    ends = [(table[stage.start][row], table[stage.end][row]) for stage in STAGES]
    counts = {name: int(table[name][row]) for name in ("request_id", "prompt_tokens", "cached_tokens", "output_tokens")}
    return counts | {
        "stages": [[_round((moment_s - arrival_s) * 1e3) for moment_s in moments_s] for moments_s in ends],
        "first_ms": _round((table["client_first_token_s"][row] - arrival_s) * 1e3),
    }


def line(run: int, name: str, x: Array, y: Array, *, dashed: bool = False) -> dict[str, Any]:
    """A line of a chart: numbers to a few digits, None for NaN."""
    return {"run": run, "name": name, "dashed": dashed, "x": compact(x), "y": compact(y)}


def compact(values: Array) -> list[float | None]:
    """Numbers as short as a drawing allows."""
    return [_round(value) for value in values.tolist()]


def _round(value: float) -> float | None:
    return float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None


def _bins(start_s: float, end_s: float, count: int) -> tuple[Array, Array]:
    """Edges and middles of equal bins of time."""
    edges = np.linspace(start_s, max(end_s, start_s + 1e-9), count + 1)
    return edges, (edges[1:] + edges[:-1]) / 2


def _spread(lines: Sequence[Sequence[tuple[str, Array, Array]]]) -> bool:
    """Whether values are so far apart that only a logarithm shows them all."""
    values = np.concatenate([np.empty(0), *(values for each in lines for _, _, values in each)])
    positive = values[values > 0]
    return bool(len(positive)) and float(positive.max()) > 50 * float(np.median(positive))


def _span_s(table: Columns) -> float:
    ends = table["client_last_token_s"]
    return float(np.nanmax(ends)) if not np.isnan(ends).all() else 0.0


def _time_unit(span_s: float) -> tuple[float, str]:
    for scale, unit in ((3600.0, "h"), (60.0, "min")):
        if span_s >= 5 * scale:
            return scale, unit
    return 1.0, "s"

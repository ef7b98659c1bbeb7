"""Validations side by side, as two Markdown tables: how far the twin is off, and where that comes from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from harness.metrics.schema import ended_ok
from harness.report.terminal import UNKNOWN, figure
from harness.validate.sources import Steps
from harness.validate.validation import Finding, Validation

_METRICS = ("ttft_s", "tpot_s", "e2e_s")
_STATISTICS = ("mean", "p50", "p90", "p99", "mape")


def page(validations: Mapping[str, Validation]) -> str:
    """Both tables.

    Args:
        validations: By what a reader is to call each.
    """
    errors = _table(
        ("workload", "requests", "runs", "", "mean", "p50", "p90", "p99", "each (MAPE)"),
        3,
        (
            row
            for name, found in validations.items()
            for finding in found.findings
            for row in _errors(name, found, finding)
        ),
    )
    sources = _table(
        (
            "workload",
            "requests/s",
            "throughput %",
            "hit ratio %",
            "prefill steps %",
            "mixed %",
            "decode %",
            "each step: median, p95 %",
            "on recorded steps: TTFT, E2E %",
            "the core on recorded timing",
            "times as fast",
        ),
        1,
        (_sources(name, found, finding) for name, found in validations.items() for finding in found.findings),
    )
    return (
        "Errors of the twin, %; in brackets how far the real runs are from each other:\n\n"
        f"{errors}\n\nWhere they come from: errors of sums and of steps, on the first real run:\n\n{sources}\n"
    )


def _errors(name: str, found: Validation, finding: Finding) -> Iterable[list[str]]:
    cells = {(line.metric, line.statistic): line for line in finding.lines}
    first = [_called(name, finding, found), f"{_requests(found):,}", str(len(found.real))]
    for metric in _METRICS:
        row = [*first, metric.removesuffix("_s").upper()]
        for statistic in _STATISTICS:
            line = cells.get((metric, statistic))
            if line is None:
                row.append(UNKNOWN)
                continue
            own = "" if np.isnan(line.own_error) else f" ({line.own_error * 100:.1f})"
            row.append(f"{line.error * 100:{'.1f' if statistic == 'mape' else '+.1f'}}{own}")
        yield row
        first = ["", "", ""]


def _sources(name: str, found: Validation, finding: Finding) -> list[str]:
    errors = {(line.metric, line.statistic): line.error for line in finding.lines}
    row = [_called(name, finding, found), _rate(found)]
    row += [_percent(errors.get((metric, "mean"))) for metric in ("requests_per_s", "hit_ratio")]
    if found.steps is None:
        row += [UNKNOWN] * 6
    else:
        row += [_of_kind(found.steps, kind) for kind in ("prefill", "mixed", "decode")]
        each = np.abs(found.steps.predicted_s / found.steps.real_s - 1) * 100
        row.append(f"{np.median(each):.1f}, {np.percentile(each, 95):.1f}")
        left = {(error.metric, error.statistic): error.error for error in found.on_recorded}
        row.append(", ".join(_percent(left.get((metric, "mean"))) for metric in ("ttft_s", "e2e_s")))
        steps = f"{len(found.steps.shapes):,} steps"
        row.append(f"{steps}: identical" if found.steps.difference is None else f"parts: {found.steps.difference}")
    row.append(figure(finding.speed, ",.0f"))
    return row


def _called(name: str, finding: Finding, found: Validation) -> str:
    return name if len(found.findings) == 1 else f"{name}, {finding.name}"


def _requests(found: Validation) -> int:
    """Requests that the errors are of."""
    columns = found.real[0].run.columns
    return int((ended_ok(columns) & (columns["warmup"] == 0)).sum())


def _rate(found: Validation) -> str:
    """What the real runs' clients offered, requests a second."""
    offered: Any = [run.run.summary["load"]["offered_requests_per_s"] for run in found.real]
    known = [rate for rate in offered if rate is not None]
    return f"{np.mean(known):.2f}" if known else UNKNOWN


def _of_kind(steps: Steps, kind: str) -> str:
    """The error of the seconds of all steps of a kind."""
    rows = steps.kinds()[kind]
    return _percent(float(steps.predicted_s[rows].sum() / steps.real_s[rows].sum() - 1) if rows.any() else None)


def _percent(error: float | None) -> str:
    return figure(error, "+.1f", 100)


def _table(heads: Iterable[str], words: int, rows: Iterable[list[str]]) -> str:
    """A Markdown table.

    Args:
        heads: Of the columns.
        words: Columns from the left that hold words; the others' cells stand at the right.
        rows: Cells.
    """
    heads = list(heads)
    rule = ["---" if column < words else "---:" for column in range(len(heads))]
    return "\n".join(f"| {' | '.join(row)} |" for row in [heads, rule, *rows])

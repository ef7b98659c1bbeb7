"""Errors of a twin's run against a real one: of statistics over the requests, and of each request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.metrics.compare import pair_rows
from harness.metrics.schema import PHASES, ended_ok
from harness.validate.errors import ValidationError
from harness.validate.recording import Recording

LATENCIES = ("ttft_s", "tpot_s", "itl_s", "e2e_s")
STATISTICS = ("mean", "p50", "p90", "p95", "p99")
_BY_REQUEST = {"ttft_s": "ttft_s", "tpot_s": "tpot_s", "itl_s": "itl_p50_s", "e2e_s": "e2e_s"}


@dataclass(frozen=True, slots=True)
class Error:
    """One figure of two runs.

    Attributes:
        metric: What is measured.
        statistic: Over what: mean, a percentile, or of each request: ``mape`` (mean absolute error over the real
            value), ``median_ape``, ``p90_ape`` and ``rank_correlation`` (Spearman's).
        real: Of the real run; NaN where the figure is of both.
        twin: Of the other; NaN likewise.
        error: Twin over real less 1; of a figure of both, the figure.
    """

    metric: str
    statistic: str
    real: float
    twin: float
    error: float


def errors(real: Recording, twin: Recording) -> list[Error]:
    """Every figure.

    Raises:
        ValidationError: The runs are not of the same requests.
    """
    found: list[Error] = []
    for metric in LATENCIES:
        ours, theirs = (recording.run.summary["metrics"][metric] for recording in (real, twin))
        found += [_error(metric, statistic, ours[statistic], theirs[statistic]) for statistic in STATISTICS]
    found += _each_request(real, twin)
    for metric in ("requests_per_s", "output_tokens_per_s"):
        values = [recording.run.summary["throughput"][metric] for recording in (real, twin)]
        found.append(_error(metric, "mean", *values))
    found.append(_error("hit_ratio", "mean", *(r.run.summary["cache"]["hit_ratio"] for r in (real, twin))))
    found += _steps(real.record.steps or {}, twin.record.steps or {})
    return [error for error in found if not np.isnan(error.error)]


def _each_request(real: Recording, twin: Recording) -> list[Error]:
    ours, theirs = real.run.columns, twin.run.columns
    pairs = pair_rows(ours, theirs)
    if pairs is None:
        raise ValidationError(f"{real.run.path} and {twin.run.path} did not replay the same requests")
    ok = ended_ok(ours)[pairs[0]] & ended_ok(theirs)[pairs[1]] & (ours["warmup"][pairs[0]] == 0)
    found = []
    for metric, column in _BY_REQUEST.items():
        one, other = ours[column][pairs[0]][ok], theirs[column][pairs[1]][ok]
        known = (one > 0) & ~np.isnan(other)
        one, other = one[known], other[known]
        if not len(one):
            continue
        relative = np.abs(other / one - 1)
        nan = float("nan")
        found += [
            Error(metric, "mape", nan, nan, float(relative.mean())),
            Error(metric, "median_ape", nan, nan, float(np.median(relative))),
            Error(metric, "p90_ape", nan, nan, float(np.quantile(relative, 0.9))),
            Error(metric, "rank_correlation", nan, nan, rank_correlation(one, other)),
        ]
    return found


def _steps(real: Mapping[str, Any], twin: Mapping[str, Any]) -> list[Error]:
    """Durations of steps by what they run, each run's own steps."""
    found = [_error("steps", "count", float(len(real["start_s"])), float(len(twin["start_s"])))]
    for phase in PHASES:
        ours, theirs = (steps["duration_s"][_phase(steps) == phase] for steps in (real, twin))
        if len(ours) and len(theirs):
            name = f"{phase}_step_s"
            found.append(_error(name, "mean", float(ours.mean()), float(theirs.mean())))
            for p in (50, 99):
                found.append(_error(name, f"p{p}", *(float(np.percentile(x, p)) for x in (ours, theirs))))
    return found


def _phase(steps: Mapping[str, Any]) -> Any:
    """The phase of each step, in words."""
    mixed = np.where(steps["decode_tokens"] > 0, "mixed", "prefill")
    return np.where(steps["prefill_tokens"] > 0, mixed, "decode")


def _error(metric: str, statistic: str, real: float | None, twin: float | None) -> Error:
    nan = float("nan")
    one, other = (nan if value is None else value for value in (real, twin))
    both_none = one == other == 0
    return Error(metric, statistic, one, other, 0.0 if both_none else other / one - 1 if one else nan)


def rank_correlation(one: Any, other: Any) -> float:
    """Spearman's rank correlation of two samples; equal values share their mean rank. NaN where one is constant."""
    if any(len(values) < 2 or np.ptp(values) == 0 for values in (one, other)):
        return float("nan")
    from scipy.stats import spearmanr  # three quarters of a second, which only a validation waits for

    return float(spearmanr(one, other).statistic)

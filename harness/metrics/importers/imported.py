"""A run that another tool measured, in our columns and our summary."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.metrics.sample import Sample
from harness.metrics.schema import STATUSES, SchemaError, complete_requests
from harness.metrics.slo import Slo
from harness.metrics.summary import METRICS, describe, summarize

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from harness.metrics.schema import Array, Gaps

OK, ERROR, ABORTED, UNFINISHED = (STATUSES.index(word) for word in ("ok", "error", "aborted", "unfinished"))


class ResultError(ValueError):
    """A file that is no result of a known tool, or a broken one; the message names file, field and value."""


@dataclass(frozen=True)
class ImportedRun:
    """What another tool's result file says of one run: as much of a :class:`harness.metrics.files.Run` as there is.

    Attributes:
        path: The file; with ``#2`` behind its name for the second result in it.
        tool: Who wrote it: vLLM, SGLang, AIPerf, GuideLLM.
        config: What the file says of the experiment.
        summary: As :func:`harness.metrics.summary.summarize` gives it; unknown figures are None.
        columns: The request table, or None where the file holds figures only.
        from_send: The file knows no intended arrivals, so that ``arrival_s`` is the time of sending, and TTFT and E2E
            are to be held against the from-send columns of another run.
    """

    path: Path
    tool: str
    config: dict[str, Any]
    summary: dict[str, Any]
    columns: dict[str, Array] | None
    from_send: bool

    @property
    def complete(self) -> bool:
        """Whether it came to its end."""
        return bool(self.summary["complete"])


@dataclass
class Results:
    """Requests as a tool recorded them.

    Attributes:
        request_id: int64 [requests], position in the trace, by which requests of two runs are paired.
        sent_s: float64 [requests], from the start of the run; None where the tool keeps no times of day.
        arrival_s: float64 [requests], intended; None where the tool does not know.
        ttft_s: float64 [requests], from sending; NaN where there was no token.
        e2e_s: float64 [requests], from sending; NaN where it did not end.
        prompt_tokens: int64 [requests].
        output_tokens: int64 [requests].
        status: int8 [requests], codes of STATUSES.
        error: Messages, None where there was none.
        gaps: Gaps between tokens, pooled, or None.
    """

    request_id: Array
    sent_s: Array | None
    arrival_s: Array | None
    ttft_s: Array
    e2e_s: Array
    prompt_tokens: Array
    output_tokens: Array
    status: Array
    error: Sequence[str | None]
    gaps: Gaps | None = None


def from_requests(
    path: Path, tool: str, config: dict[str, Any], results: Results, throughput: Mapping[str, float | None]
) -> ImportedRun:
    """A run of which every request is known.

    Args:
        path: The file.
        tool: Who wrote it.
        config: What it says of the experiment.
        results: The requests.
        throughput: The file's own ``duration_s`` and rates, by our names; used where it keeps no times of day.

    Raises:
        ResultError: A request that ended ok lacks the time of its first or last token.
    """
    rows = len(results.status)
    sent_s = np.zeros(rows) if results.sent_s is None else results.sent_s
    arrival_s = sent_s if results.arrival_s is None else results.arrival_s
    start_s = float(min(arrival_s.min(), sent_s.min())) if rows else 0.0
    sent_s, arrival_s = sent_s - start_s, arrival_s - start_s
    try:
        columns = complete_requests(
            {
                "request_id": results.request_id,
                "arrival_s": arrival_s,
                "sent_s": sent_s,
                "client_first_token_s": sent_s + results.ttft_s,
                "client_last_token_s": sent_s + results.e2e_s,
                "prompt_tokens": results.prompt_tokens,
                "output_tokens": results.output_tokens,
                "priority": np.zeros(rows, np.int64),
                "status": results.status,
                "error": np.array([*results.error, None], dtype=np.object_)[:-1],
                "warmup": np.zeros(rows, bool),
            }
        )
    except SchemaError as error:
        raise ResultError(f"{path}: {error}; record it with streaming") from error
    summary = summarize(columns, gaps=results.gaps, slo=Slo("none"), environment={}, complete=True)
    # Which gaps belong to one step is not known, so nothing says how many independent observations there are.
    summary["metrics"]["itl_s"]["ci95"] = dict.fromkeys(("mean", "p50", "p99"))
    if results.sent_s is None:
        summary["throughput"] |= {"steady": dict.fromkeys(summary["throughput"]["steady"]), **throughput}
        summary["load"] = {"offered_requests_per_s": None, "send_lag_s": {"p50": None, "p99": None}, "degraded": None}
    return ImportedRun(path, tool, config, summary, columns, from_send=results.arrival_s is None)


def from_figures(
    path: Path,
    tool: str,
    config: dict[str, Any],
    metrics: Mapping[str, Mapping[str, float | None]],
    throughput: Mapping[str, float | None],
    *,
    ok: int,
    failed: int | None,
) -> ImportedRun:
    """A run of which only the figures are known.

    Args:
        path: The file.
        tool: Who wrote it.
        config: What it says of the experiment.
        metrics: Statistics (mean, p50, p99, ...) in seconds, from sending, by metric: ttft_s, tpot_s, itl_s, e2e_s.
        throughput: ``duration_s``, ``input_tokens``, ``output_tokens`` and the rates, by our names.
        ok: Requests that ended ok.
        failed: Requests that did not; None where the tool does not count them.
    """
    unknown = describe(Sample(np.empty(0)))
    by_name = {name: unknown | {"count": ok} | dict(metrics.get(name, {})) for name in METRICS}
    by_name |= {"ttft_from_send_s": by_name["ttft_s"], "e2e_from_send_s": by_name["e2e_s"]}
    none = Slo("none")
    empty = complete_requests({name: np.empty(0, kind) for name, kind in _REQUIRED.items()})
    summary = summarize(empty, slo=none, environment={}, complete=True)
    summary["metrics"] = by_name
    summary["throughput"] = dict.fromkeys(summary["throughput"]) | {"steady": {}} | dict(throughput)
    requests = None if failed is None else ok + failed
    summary["counts"] |= {"requests": requests, "sent": requests, "ok": ok, "error": failed}
    return ImportedRun(path, tool, config, summary, None, from_send=True)


_REQUIRED: dict[str, type] = {
    "request_id": np.int64,
    "arrival_s": np.float64,
    "prompt_tokens": np.int64,
    "output_tokens": np.int64,
    "priority": np.int64,
    "status": np.int8,
    "warmup": np.int8,
}


def identities(*candidates: Sequence[Any]) -> Array:
    """The first of the candidates that numbers the requests, else their order: int64 [requests].

    Tools name requests by words of their own, but some number them as the trace does.

    Args:
        candidates: A name for each request, in the order in which they were sent.
    """
    for names in candidates:
        if all(isinstance(name, int | str) and str(name).isdecimal() for name in names) and len(set(names)) == len(
            names
        ):
            return np.array([int(name) for name in names], dtype=np.int64)
    return np.arange(len(candidates[0]))


def number(document: Mapping[str, Any], key: str, path: Path, *, scale: float = 1.0) -> float | None:
    """A number of a result file; None where it is missing, null or NaN.

    Raises:
        ResultError: It is something else.
    """
    value = document.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ResultError(f"{path}: {key!r} is {value!r:.60}, not a number")
    return value * scale if math.isfinite(value) else None


def numbers(document: Mapping[str, Any], key: str, rows: int, path: Path) -> Array:
    """A list with a number for each request: float64 [rows].

    Raises:
        ResultError: It is missing, of another length, or holds something else.
    """
    values = document.get(key)
    if not isinstance(values, list) or len(values) != rows:
        has = f"{len(values)} entries" if isinstance(values, list) else "no list"
        raise ResultError(f"{path}: {key!r} has {has} for {rows} requests")
    for position, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ResultError(f"{path}: {key}[{position}] is {value!r:.60}, not a number")
    return np.array(values, dtype=np.float64)


def whole(values: Array) -> Array:
    """Token counts: int64, with 0 for what is NaN."""
    return np.nan_to_num(values).astype(np.int64)

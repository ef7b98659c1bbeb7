"""GuideLLM's ``benchmarks.json``: one or more benchmarks, each with its requests."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.metrics.importers.exported import figures, optional, scaled
from harness.metrics.importers.imported import (
    ERROR,
    OK,
    UNFINISHED,
    ImportedRun,
    ResultError,
    Results,
    from_requests,
    identities,
    number,
    whole,
)
from harness.metrics.sample import Sample
from harness.metrics.summary import describe

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from harness.metrics.files import Run
    from harness.metrics.schema import Array
    from harness.metrics.summary import Json

NAME = "GuideLLM"
_STATUS = {"successful": OK, "incomplete": UNFINISHED, "errored": ERROR}
_PERCENTILES = {
    "p01": "p1",
    "p05": "p5",
    "p10": "p10",
    "p25": "p25",
    "p50": "p50",
    "p75": "p75",
    "p90": "p90",
    "p95": "p95",
    "p99": "p99",
    "p999": "p999",
}


def recognises(document: Mapping[str, Any]) -> bool:
    """Whether a JSON object is such a report."""
    benchmarks = document.get("benchmarks")
    return isinstance(benchmarks, list) and all(isinstance(each, dict) and "requests" in each for each in benchmarks)


def read(document: Mapping[str, Any], path: Path) -> list[ImportedRun]:
    """The benchmarks in our columns, in the order of the file.

    The intended arrival is ``targeted_start``, where every request has one. TPOT is what GuideLLM calls inter-token
    latency; it keeps no gaps between tokens.

    Raises:
        ResultError: There is none, or a field is not what it should be.
    """
    benchmarks = document["benchmarks"]
    if not benchmarks:
        raise ResultError(f"{path}: 'benchmarks' is empty")
    names = [path if len(benchmarks) == 1 else path.with_name(f"{path.name}#{i + 1}") for i in range(len(benchmarks))]
    return [_benchmark(benchmark, name) for benchmark, name in zip(benchmarks, names, strict=True)]


def write(run: Run) -> dict[str, str]:
    """A run under GuideLLM's keys: text by file name. Times count from the run's start, not from 1970."""
    figure = figures(run)
    done = figure.done
    prompt, output = done["prompt_tokens"], done["output_tokens"]
    several = output > 1
    some = output > 0
    per_token_s = done["e2e_from_send_s"][some] / output[some]
    milliseconds = {  # GuideLLM weighs these by tokens
        "time_to_first_token_ms": figure.ttft,
        "inter_token_latency_ms": describe(Sample(done["tpot_s"][several], output[several] - 1)),
        "time_per_output_token_ms": describe(Sample(per_token_s, output[some])),
    }
    metrics: Json = {
        "request_totals": _totals(figure.requests["status"]),
        "requests_per_second": {"successful": {"mean": figure.rate(len(output))}},
        "request_latency": {"successful": _distribution(figure.e2e, 1.0)},
        "prompt_token_count": {"successful": _distribution(describe(Sample(prompt * 1.0)), 1.0)},
        "output_token_count": {"successful": _distribution(describe(Sample(output * 1.0)), 1.0)},
        "prompt_tokens_per_second": {"successful": {"mean": figure.rate(figure.prompt_tokens)}},
        "output_tokens_per_second": {"successful": {"mean": figure.rate(figure.output_tokens)}},
        "tokens_per_second": {"successful": {"mean": figure.rate(figure.prompt_tokens + figure.output_tokens)}},
    } | {name: {"successful": _distribution(metric, 1e3)} for name, metric in milliseconds.items()}
    benchmark = {
        "type_": "generative_benchmark",
        "config": {"model": figure.model},
        "duration": figure.duration_s,
        "metrics": metrics,
        "requests": _requests(figure.requests) | {"total": None},
    }
    return {"benchmarks.json": json.dumps({"benchmarks": [benchmark]}, allow_nan=False) + "\n"}


def _benchmark(benchmark: Mapping[str, Any], path: Path) -> ImportedRun:
    groups = benchmark["requests"]
    rows: list[tuple[Mapping[str, Any], int]] = []
    for word, status in _STATUS.items():
        requests = groups.get(word) if isinstance(groups, dict) else None
        if requests is not None and not isinstance(requests, list):
            raise ResultError(f"{path}: requests.{word} is {requests!r:.60}, not a list")
        rows += [(request, status) for request in requests or []]
    for request, _ in rows:
        if not isinstance(_timings(request), dict):
            raise ResultError(f"{path}: request {request.get('request_id')!r} has no info.timings")
    rows.sort(key=lambda row: _timings(row[0]).get("request_start") or float("inf"))
    if not any(status == OK for _, status in rows):
        raise ResultError(f"{path}: no request ended ok ('requests.successful' is empty)")

    def moment(key: str) -> Array:
        values = [number(_timings(request), key, path) for request, _ in rows]
        return np.array([np.nan if value is None else value for value in values])

    def count(key: str) -> Array:
        return whole(np.array([number(request, key, path) or 0 for request, _ in rows]))

    sent_s, targeted_s = moment("request_start"), moment("targeted_start")
    start_s = float(np.nanmin(sent_s))
    # What was never sent has no place in time but its target; without one it is left out.
    keep = ~np.isnan(sent_s)
    sent = [request for (request, _), kept in zip(rows, keep, strict=True) if kept]
    results = Results(
        request_id=identities([request.get("request_id") for request in sent]),
        sent_s=(sent_s - start_s)[keep],
        arrival_s=None if np.isnan(targeted_s[keep]).any() else (targeted_s - start_s)[keep],
        ttft_s=(moment("first_token_iteration") - sent_s)[keep],
        e2e_s=(moment("last_token_iteration") - sent_s)[keep],
        prompt_tokens=count("prompt_tokens")[keep],
        output_tokens=count("output_tokens")[keep],
        status=np.array([status for _, status in rows], dtype=np.int8)[keep],
        error=[request["info"].get("error") for request in sent],
    )
    config = {"tool": NAME} | ({"config": benchmark["config"]} if "config" in benchmark else {})
    return from_requests(path, NAME, config, results, {})


def _timings(request: Mapping[str, Any]) -> Any:
    info = request.get("info")
    return info.get("timings") if isinstance(info, dict) else None


def _distribution(metric: Json, scale: float) -> Json:
    return {
        "mean": scaled(metric["mean"], scale),
        "median": scaled(metric["p50"], scale),
        "std_dev": scaled(metric["std"], scale),
        "min": scaled(metric["min"], scale),
        "max": scaled(metric["max"], scale),
        "count": metric["count"],
        "percentiles": {theirs: scaled(metric[ours], scale) for theirs, ours in _PERCENTILES.items()},
    }


def _totals(status: Array) -> Json:
    ok, unfinished = int((status == OK).sum()), int((status == UNFINISHED).sum())
    return {
        "successful": ok,
        "incomplete": unfinished,
        "errored": len(status) - ok - unfinished,
        "total": len(status),
    }


def _requests(requests: dict[str, Array]) -> Json:
    """The requests by status."""
    moments = {
        "targeted_start": "arrival_s",
        "request_start": "sent_s",
        "first_token_iteration": "client_first_token_s",
        "last_token_iteration": "client_last_token_s",
        "request_end": "client_last_token_s",
    }
    times = {key: optional(requests[column]) for key, column in moments.items()}
    latencies = {
        "request_latency": optional(requests["e2e_from_send_s"]),
        "time_to_first_token_ms": optional(requests["ttft_from_send_s"] * 1e3),
        "inter_token_latency_ms": optional(requests["tpot_s"] * 1e3),
    }
    counts = {name: requests[name].tolist() for name in ("prompt_tokens", "output_tokens")}
    groups: dict[str, list[Json]] = {word: [] for word in _STATUS}
    words = {status: word for word, status in _STATUS.items()}
    for row, (request_id, status, error) in enumerate(
        zip(*(requests[name].tolist() for name in ("request_id", "status", "error")), strict=True)
    ):
        entry = {
            "request_id": str(request_id),
            "info": {"timings": {key: values[row] for key, values in times.items()}, "error": error},
        }
        entry |= {key: values[row] for key, values in (latencies | counts).items()}
        groups[words.get(status, "errored")].append(entry)
    return groups

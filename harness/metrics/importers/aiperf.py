"""Exports of NVIDIA AIPerf: ``profile_export.jsonl`` (a record a request), ``profile_export_aiperf.json`` (figures)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.metrics.importers.bench_serving import pooled
from harness.metrics.importers.exported import figures, optional, scaled
from harness.metrics.importers.imported import (
    ABORTED,
    ERROR,
    OK,
    ImportedRun,
    ResultError,
    Results,
    from_figures,
    from_requests,
    identities,
    number,
    whole,
)
from harness.metrics.summary import PERCENTILES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from harness.metrics.files import Run
    from harness.metrics.schema import Array
    from harness.metrics.summary import Json

NAME = "AIPerf"
RECORDS, FIGURES = "profile_export.jsonl", "profile_export_aiperf.json"
_STATISTICS = {"avg": "mean", "std": "std", "min": "min", "max": "max"} | {name: name for name in PERCENTILES}
_METRICS = {"ttft_s": "time_to_first_token", "tpot_s": "inter_token_latency", "e2e_s": "request_latency"}
_RATES = {
    "duration_s": "benchmark_duration",
    "requests_per_s": "request_throughput",
    "output_tokens_per_s": "output_token_throughput",
    "total_tokens_per_s": "total_token_throughput",
}


def recognises(document: Mapping[str, Any]) -> bool:
    """Whether a JSON object is the figures."""
    latency = document.get("request_latency")
    return isinstance(latency, dict) and "avg" in latency and "unit" in latency


def recognises_record(document: Mapping[str, Any]) -> bool:
    """Whether a JSON object is the record of a request."""
    metadata = document.get("metadata")
    return isinstance(metadata, dict) and "request_start_ns" in metadata


def read(document: Mapping[str, Any], path: Path) -> ImportedRun:
    """The figures in our summary: without the records there are no intervals.

    Raises:
        ResultError: A field is not what it should be.
    """

    def figure(key: str, statistic: str) -> float | None:
        entry = document.get(key)
        if entry is None:
            return None
        if not isinstance(entry, dict):
            raise ResultError(f"{path}: {key!r} is {entry!r:.60}, not an object with its unit and statistics")
        return number(entry, statistic, path)

    metrics = {
        ours: {name: scaled(figure(theirs, statistic), 1e-3) for statistic, name in _STATISTICS.items()}
        for ours, theirs in _METRICS.items()
    }
    rates = {ours: figure(theirs, "avg") for ours, theirs in _RATES.items()}
    ok, failed = (int(figure(key, "avg") or 0) for key in ("request_count", "error_request_count"))
    if not ok:
        raise ResultError(f"{path}: no request ended ok ('request_count' is {document.get('request_count')!r})")
    config = {"tool": NAME} | {key: document[key] for key in ("aiperf_version", "input_config") if key in document}
    return from_figures(path, NAME, config, metrics, rates, ok=ok, failed=failed)


def read_records(records: Sequence[Mapping[str, Any]], path: Path) -> ImportedRun:
    """Records in our columns; those of a warm-up phase are left out.

    The intended arrival is when AIPerf issued the credit to send, where a record says that.

    Raises:
        ResultError: A field is not what it should be.
    """
    kept = [record for record in records if record["metadata"].get("benchmark_phase") != "warmup"]
    for record in kept:
        times_ns = {"request_start_ns": record["metadata"]["request_start_ns"]}
        if record["metadata"].get("credit_issued_ns") is not None:
            times_ns["credit_issued_ns"] = record["metadata"]["credit_issued_ns"]
        for key, time_ns in times_ns.items():
            if not isinstance(time_ns, int):
                raise ResultError(f"{path}: {key!r} is {time_ns!r:.60}, not nanoseconds")
    kept.sort(key=lambda record: (record["metadata"]["request_start_ns"], record["metadata"].get("session_num") or 0))
    if not kept:
        raise ResultError(f"{path}: it has no record of a request")
    # Nanoseconds since 1970 are beyond a float64's exactness: their difference to the first is taken as integers.
    first_ns = kept[0]["metadata"]["request_start_ns"]

    def since_first_s(key: str) -> Array:
        values = [record["metadata"].get(key) for record in kept]
        return np.array([np.nan if value is None else (value - first_ns) / 1e9 for value in values])

    issued_s = since_first_s("credit_issued_ns")
    status = [_status(record) for record in kept]
    gaps = [
        np.array(entry["value"], dtype=np.float64) / 1e3
        for record, code in zip(kept, status, strict=True)
        if code == OK
        if isinstance((entry := (record.get("metrics") or {}).get("inter_chunk_latency") or {}).get("value"), list)
    ]
    tokens = np.array([_metric(record, "input_sequence_length", path) for record in kept])
    error_tokens = np.array([_metric(record, "error_isl", path) for record in kept])
    metadata = [record["metadata"] for record in kept]
    results = Results(
        request_id=identities(*([each.get(key) for each in metadata] for key in ("x_request_id", "session_num"))),
        sent_s=since_first_s("request_start_ns"),
        arrival_s=None if np.isnan(issued_s).any() else issued_s,
        ttft_s=np.array([_metric(record, "time_to_first_token", path) for record in kept]) / 1e3,
        e2e_s=np.array([_metric(record, "request_latency", path) for record in kept]) / 1e3,
        prompt_tokens=whole(np.where(np.isnan(tokens), error_tokens, tokens)),
        output_tokens=whole(np.array([_metric(record, "output_sequence_length", path) for record in kept])),
        status=np.array(status, dtype=np.int8),
        error=[None if record.get("error") is None else _message(record["error"]) for record in kept],
        gaps=pooled(gaps),
    )
    return from_requests(path, NAME, {"tool": NAME}, results, {})


def write(run: Run) -> dict[str, str]:
    """A run under AIPerf's keys: text by file name."""
    figure = figures(run)

    def latency(metric: Json) -> Json:
        return {"unit": "ms"} | {theirs: scaled(metric[ours]) for theirs, ours in _STATISTICS.items()}

    def single(unit: str, value: float | None) -> Json:
        return {"unit": unit, "avg": value}

    document = {
        "request_throughput": single("requests/sec", figure.rate(len(figure.done["status"]))),
        "request_latency": latency(figure.e2e),
        "request_count": single("requests", len(figure.done["status"])),
        "error_request_count": single("requests", figure.failed),
        "time_to_first_token": latency(figure.ttft),
        "inter_token_latency": latency(figure.tpot),
        "output_token_throughput": single("tokens/sec", figure.rate(figure.output_tokens)),
        "total_token_throughput": single("tokens/sec", figure.rate(figure.prompt_tokens + figure.output_tokens)),
        "output_sequence_length": single("tokens", _mean(figure.done["output_tokens"])),
        "input_sequence_length": single("tokens", _mean(figure.done["prompt_tokens"])),
        "benchmark_duration": single("sec", figure.duration_s),
    }
    records = "".join(json.dumps(record, allow_nan=False) + "\n" for record in _records(figure.requests))
    return {FIGURES: json.dumps(document, indent=2, allow_nan=False) + "\n", RECORDS: records}


def _records(requests: dict[str, Array]) -> list[Json]:
    """A record for each request that was sent; times count from the run's start, not from 1970."""
    units = {
        "input_sequence_length": ("prompt_tokens", "tokens", 1),
        "output_sequence_length": ("output_tokens", "tokens", 1),
        "time_to_first_token": ("ttft_from_send_s", "ms", 1e3),
        "request_latency": ("e2e_from_send_s", "ms", 1e3),
        "inter_token_latency": ("tpot_s", "ms", 1e3),
    }
    names = ("request_id", "session_id", "turn", "status", "error")
    lists = {name: requests[name].tolist() for name in names}
    times = {name: optional(requests[name]) for name in ("arrival_s", "sent_s", "client_last_token_s")}
    values = {key: optional(requests[column] * scale) for key, (column, _, scale) in units.items()}
    records = []
    for row, sent_s in enumerate(times["sent_s"]):
        if sent_s is None:
            continue
        ok = lists["status"][row] == OK
        session, turn = lists["session_id"][row], lists["turn"][row]
        metadata = {
            "session_num": row,
            "x_request_id": str(lists["request_id"][row]),
            "conversation_id": str(session) if session >= 0 else None,
            "turn_index": max(turn, 0),
            "credit_issued_ns": _nanoseconds(times["arrival_s"][row]),
            "request_start_ns": _nanoseconds(sent_s),
            "request_end_ns": _nanoseconds(times["client_last_token_s"][row]),
            "benchmark_phase": "profiling",
            "was_cancelled": lists["status"][row] == ABORTED,
        }
        known = {key: {"value": values[key][row], "unit": unit} for key, (_, unit, _) in units.items()}
        known = {key: entry for key, entry in known.items() if entry["value"] is not None}
        error = None if ok else {"code": 0, "type": "RequestError", "message": lists["error"][row] or ""}
        records.append({"metadata": metadata, "metrics": known, "error": error})
    return records


def _nanoseconds(time_s: float | None) -> int | None:
    return None if time_s is None else round(time_s * 1e9)


def _mean(values: Array) -> float | None:
    return float(values.mean()) if len(values) else None


def _status(record: Mapping[str, Any]) -> int:
    if record["metadata"].get("was_cancelled"):
        return ABORTED
    return OK if record.get("error") is None else ERROR


def _metric(record: Mapping[str, Any], key: str, path: Path) -> float:
    """A metric of a record, NaN where it has none."""
    entry = (record.get("metrics") or {}).get(key)
    if entry is None:
        return np.nan
    value = number(entry, "value", path) if isinstance(entry, dict) else number({key: entry}, key, path)
    return np.nan if value is None else value


def _message(error: Any) -> str:
    return str(error.get("message")) if isinstance(error, dict) else str(error)

"""Result files of ``python -m sglang.bench_serving --output-file``: a JSON object a line, one a benchmark."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from harness.metrics.importers import bench_serving
from harness.metrics.importers.exported import figures, scaled

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from harness.metrics.files import Run
    from harness.metrics.importers.imported import ImportedRun

NAME = "SGLang"


def recognises(document: Mapping[str, Any]) -> bool:
    """Whether a JSON object is such a result."""
    return "mean_ttft_ms" in document and "mean_e2e_latency_ms" in document


def read(document: Mapping[str, Any], path: Path) -> ImportedRun:
    """A result in our columns.

    Raises:
        ResultError: A field is not what it should be.
    """
    return bench_serving.read(document, path, NAME, e2e="e2e_latency", total="total_throughput")


def write(run: Run) -> dict[str, str]:
    """A run under SGLang's keys, without ``--output-details``: text by file name."""
    figure = figures(run)
    in_flight_s = float(figure.done["e2e_from_send_s"].sum())
    document = {
        "backend": "servetwin",
        "request_rate": run.summary["load"]["offered_requests_per_s"],
        "max_concurrency": figure.concurrency_limit,
        "duration": figure.duration_s,
        "completed": len(figure.done["status"]),
        "total_input_tokens": figure.prompt_tokens,
        "total_output_tokens": figure.output_tokens,
        "request_throughput": figure.rate(len(figure.done["status"])),
        "input_throughput": figure.rate(figure.prompt_tokens),
        "output_throughput": figure.rate(figure.output_tokens),
        "total_throughput": figure.rate(figure.prompt_tokens + figure.output_tokens),
        "concurrency": figure.rate(in_flight_s),
    }
    words = (("e2e_latency", figure.e2e), ("ttft", figure.ttft), ("tpot", figure.tpot), ("itl", figure.itl))
    for word, metric in words:
        document |= bench_serving.figures_ms(word, metric)
    document["max_itl_ms"] = scaled(figure.itl["max"])
    return {"sglang.jsonl": json.dumps(document, allow_nan=False) + "\n"}

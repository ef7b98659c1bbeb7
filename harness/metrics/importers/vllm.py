"""Result files of ``vllm bench serve --save-result``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from harness.metrics.importers import bench_serving
from harness.metrics.importers.exported import figures

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from harness.metrics.files import Run
    from harness.metrics.importers.imported import ImportedRun

NAME = "vLLM"


def recognises(document: Mapping[str, Any]) -> bool:
    """Whether a JSON object is such a result."""
    return "mean_ttft_ms" in document and "total_token_throughput" in document


def read(document: Mapping[str, Any], path: Path) -> ImportedRun:
    """A result in our columns.

    Raises:
        ResultError: A field is not what it should be.
    """
    return bench_serving.read(document, path, NAME, e2e="e2el", total="total_token_throughput")


def write(run: Run) -> dict[str, str]:
    """A run under vLLM's keys, as vLLM writes it without ``--save-detailed``: text by file name."""
    figure = figures(run)
    document = {
        "backend": "servetwin",
        "model_id": figure.model,
        "num_prompts": len(figure.requests["status"]),
        "request_rate": run.summary["load"]["offered_requests_per_s"],
        "max_concurrency": figure.concurrency_limit,
        "duration": figure.duration_s,
        "completed": len(figure.done["status"]),
        "failed": figure.failed,
        "total_input_tokens": figure.prompt_tokens,
        "total_output_tokens": figure.output_tokens,
        "request_throughput": figure.rate(len(figure.done["status"])),
        "request_goodput": run.summary["goodput"]["requests_per_s"],
        "output_throughput": figure.rate(figure.output_tokens),
        "total_token_throughput": figure.rate(figure.prompt_tokens + figure.output_tokens),
    }
    for word, metric in (("ttft", figure.ttft), ("tpot", figure.tpot), ("itl", figure.itl), ("e2el", figure.e2e)):
        document |= bench_serving.figures_ms(word, metric)
    return {"vllm.json": json.dumps(document, indent=2, allow_nan=False) + "\n"}

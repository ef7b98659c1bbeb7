"""What vLLM's and SGLang's serving benchmarks have in common: lists with an entry a request, and flat figures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from harness.metrics.importers.exported import scaled
from harness.metrics.importers.imported import (
    ERROR,
    OK,
    ImportedRun,
    ResultError,
    Results,
    from_figures,
    from_requests,
    number,
    numbers,
    whole,
)
from harness.metrics.schema import Gaps

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from harness.metrics.schema import Array
    from harness.metrics.summary import Json

STATISTICS = {"mean": "mean", "median": "p50", "std": "std", "p90": "p90", "p95": "p95", "p99": "p99"}
DETAILS = ("input_lens", "output_lens", "ttfts", "itls", "errors")
_SETTINGS = (
    "backend",
    "endpoint_type",
    "dataset_name",
    "model_id",
    "tokenizer_id",
    "label",
    "date",
    "num_prompts",
    "request_rate",
    "burstiness",
    "max_concurrency",
)


def read(document: Mapping[str, Any], path: Path, tool: str, e2e: str, total: str) -> ImportedRun:
    """One result.

    With the lists of each request (``vllm bench serve --save-detailed``, SGLang's ``--output-details``) a request's
    E2E is its TTFT and its gaps together; without them there are figures only, and no intervals.

    Args:
        document: The JSON object.
        path: Where it stands.
        tool: vLLM or SGLang.
        e2e: What the tool calls E2E in its keys.
        total: Key of its total token throughput.

    Raises:
        ResultError: A field is not what it should be.
    """
    config = {"tool": tool} | {key: document[key] for key in _SETTINGS if key in document}
    duration_s = number(document, "duration", path)
    input_tokens, output_tokens = (number(document, key, path) for key in ("total_input_tokens", "total_output_tokens"))
    throughput = {
        "duration_s": duration_s,
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
        "requests_per_s": number(document, "request_throughput", path),
        "input_tokens_per_s": input_tokens / duration_s if input_tokens is not None and duration_s else None,
        "output_tokens_per_s": number(document, "output_throughput", path),
        "total_tokens_per_s": number(document, total, path),
    }
    if all(key in document for key in DETAILS):
        return from_requests(path, tool, config, _results(document, path), throughput)
    metrics = {}
    for name, word in (("ttft_s", "ttft"), ("tpot_s", "tpot"), ("itl_s", "itl"), ("e2e_s", e2e)):
        metrics[name] = {
            ours: number(document, f"{theirs}_{word}_ms", path, scale=1e-3) for theirs, ours in STATISTICS.items()
        }
    ok = int(number(document, "completed", path) or 0)
    if not ok:
        raise ResultError(f"{path}: no request ended ok ('completed' is {document.get('completed')!r})")
    failed = number(document, "failed", path)
    failures = None if failed is None else int(failed)
    return from_figures(path, tool, config, metrics, throughput, ok=ok, failed=failures)


def figures_ms(word: str, metric: Json) -> Json:
    """A metric's statistics in milliseconds under the tools' keys: mean_ttft_ms, ..., p99_ttft_ms."""
    return {f"{theirs}_{word}_ms": scaled(metric[ours]) for theirs, ours in STATISTICS.items()}


def _results(document: Mapping[str, Any], path: Path) -> Results:
    errors = document["errors"]
    if not isinstance(errors, list):
        raise ResultError(f"{path}: 'errors' is {errors!r:.60}, not a list")
    rows = len(errors)
    ttft_s, prompt_tokens, output_tokens = (
        numbers(document, key, rows, path) for key in ("ttfts", "input_lens", "output_lens")
    )
    gaps = _gaps(document["itls"], rows, path)
    ok = np.array([not error for error in errors], dtype=bool) & (ttft_s > 0)
    return Results(
        request_id=np.arange(rows),
        sent_s=numbers(document, "start_times", rows, path) if "start_times" in document else None,
        arrival_s=None,
        ttft_s=np.where(ok, ttft_s, np.nan),
        e2e_s=np.where(ok, ttft_s + np.array([gap_s.sum() for gap_s in gaps]), np.nan),
        prompt_tokens=whole(prompt_tokens),
        output_tokens=whole(output_tokens),
        status=np.where(ok, OK, ERROR).astype(np.int8),
        error=[str(error) if error else None for error in errors],
        gaps=pooled([gap_s for gap_s, good in zip(gaps, ok.tolist(), strict=True) if good]),
    )


def _gaps(lists: Any, rows: int, path: Path) -> list[Array]:
    if not isinstance(lists, list) or len(lists) != rows:
        raise ResultError(f"{path}: 'itls' is not a list of {rows} lists, one a request")
    try:
        return [np.array(gaps, dtype=np.float64).reshape(len(gaps)) for gaps in lists]
    except (TypeError, ValueError) as error:
        raise ResultError(f"{path}: 'itls' holds something that is not a list of seconds ({error})") from None


def pooled(gaps: list[Array]) -> Gaps | None:
    """Gaps of many requests in one, or None where there are none."""
    gap_s = np.concatenate([np.empty(0), *gaps])
    return Gaps(gap_s, np.ones(len(gap_s), np.int64)) if len(gap_s) else None

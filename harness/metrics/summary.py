"""The summary of a run: one dictionary of plain numbers, the same from every backend."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from harness.metrics.sample import Sample
from harness.metrics.schema import NULL, STATUSES, ended_ok, select
from harness.metrics.slo import met_by_limit, was_sent

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness.metrics.schema import Array, Columns, Gaps
    from harness.metrics.slo import Slo

Json: TypeAlias = "dict[str, Any]"  # numbers, strings, None and dictionaries of them

PERCENTILES = {
    "p1": 0.01,
    "p5": 0.05,
    "p10": 0.1,
    "p25": 0.25,
    "p50": 0.5,
    "p75": 0.75,
    "p90": 0.9,
    "p95": 0.95,
    "p99": 0.99,
    "p999": 0.999,
}
REQUEST_METRICS = ("ttft_s", "ttft_from_send_s", "tpot_s", "e2e_s", "queue_s", "prefill_s", "decode_s")
METRICS = ("ttft_s", "ttft_from_send_s", "tpot_s", "itl_s", "e2e_s", "queue_s", "prefill_s", "decode_s")
_OF_COMPLETED = (
    *REQUEST_METRICS,
    "client_first_token_s",
    "client_last_token_s",
    "prompt_tokens",
    "output_tokens",
)
FEW_SAMPLES = 1000  # under this many, p99 rests on fewer than ten values
FEW_COMPLETIONS = 10  # under this many there is no steady window


def summarize(
    requests: Columns,
    *,
    steps: Columns | None = None,
    gaps: Gaps | None = None,
    slo: Slo,
    environment: Mapping[str, Any],
    complete: bool,
) -> Json:
    """A run's ``summary.json``.

    Latencies are those of the requests that ended ok; warm-up requests are left out of everything but
    ``counts.warmup`` and ``cache.evicted_pages``. What is unknown is None.

    ``throughput`` counts ok requests over [first arrival, last completion]. ``throughput.steady`` leaves
    out the cold start and the drain: it spans the 10th to the 90th percentile of completion times, whatever
    the arrivals looked like, and counts the requests that end in it, the prompts whose first token falls in
    it, and the output tokens produced in it (spread evenly from first to last token of each request).

    Args:
        requests: As :func:`harness.metrics.schema.complete_requests` gives them.
        steps: As :func:`harness.metrics.schema.complete_steps` gives them; None if the engine is not ours.
        gaps: Gaps between tokens, pooled over the ok requests after warm-up; None if unknown.
        slo: What goodput holds the requests to.
        environment: Versions, commit and hardware, passed on.
        complete: Whether the run came to its end.

    Returns:
        complete, metrics, throughput, goodput, cache, load, counts, environment.
    """
    warmup = requests["warmup"] == 1
    measured = select(requests, ~warmup) if warmup.any() else requests
    done = select({name: measured[name] for name in _OF_COMPLETED}, ended_ok(measured))
    metrics = {name: describe(Sample(done[name])) for name in REQUEST_METRICS}
    metrics["itl_s"] = describe(Sample(gaps.gap_s, gaps.weight) if gaps else Sample(np.empty(0)))
    throughput = _throughput(measured["arrival_s"], done)
    return {
        "complete": complete,
        "metrics": {name: metrics[name] for name in METRICS},
        "throughput": throughput,
        "goodput": _goodput(measured, slo, throughput["duration_s"]),
        "cache": _cache(measured, steps),
        "load": _load(measured, metrics["ttft_s"]["p50"]),
        "counts": _counts(measured, int(warmup.sum())),
        "environment": dict(environment),
    }


def describe(sample: Sample) -> Json:
    """Mean, std, min, percentiles, max, count and 95 % intervals of a metric; None where it is empty."""
    if not sample.count:
        names = ("mean", "std", "min", *PERCENTILES, "max")
        empty: Json = dict.fromkeys(names)
        return empty | {"count": 0, "low_samples": True, "ci95": {"mean": None, "p50": None, "p99": None}}
    quantiles = sample.quantile(list(PERCENTILES.values()))
    return {
        "mean": sample.mean,
        "std": sample.std,
        "min": float(sample.values[0]),
        **dict(zip(PERCENTILES, map(float, quantiles), strict=True)),
        "max": float(sample.values[-1]),
        "count": sample.count,
        "low_samples": sample.count < FEW_SAMPLES,
        "ci95": {
            "mean": list(sample.mean_interval()),
            "p50": list(sample.quantile_interval(0.5)),
            "p99": list(sample.quantile_interval(0.99)),
        },
    }


def _throughput(arrival_s: Array, done: Columns) -> Json:
    end_s = done["client_last_token_s"]
    input_tokens, output_tokens = int(done["prompt_tokens"].sum()), int(done["output_tokens"].sum())
    duration_s = float(end_s.max() - arrival_s.min()) if len(end_s) else None
    return {
        "duration_s": duration_s,
        "input_tokens": input_tokens,
        "output_tokens": output_tokens,
        **_rates(len(end_s), input_tokens, output_tokens, duration_s),
        "steady": _steady(done),
    }


def _rates(requests: float, input_tokens: float, output_tokens: float, duration_s: float | None) -> Json:
    return {
        "requests_per_s": _ratio(requests, duration_s),
        "input_tokens_per_s": _ratio(input_tokens, duration_s),
        "output_tokens_per_s": _ratio(output_tokens, duration_s),
        "total_tokens_per_s": _ratio(input_tokens + output_tokens, duration_s),
    }


def _ratio(part: float | None, whole: float | None) -> float | None:
    """Their quotient, None where either is unknown or the whole is nothing."""
    return part / whole if part is not None and whole else None


def _steady(done: Columns) -> Json:
    first_s, end_s, output_tokens = (
        done[name] for name in ("client_first_token_s", "client_last_token_s", "output_tokens")
    )
    start_s, stop_s = 0.0, 0.0
    if len(end_s) >= FEW_COMPLETIONS:
        start_s, stop_s = map(float, np.quantile(end_s, [0.1, 0.9], method="lower"))
    if stop_s <= start_s:
        return {"start_s": None, "duration_s": None, **_rates(0, 0, 0, None)}

    def produced(until_s: float) -> float:
        share = np.clip((until_s - first_s) / np.maximum(end_s - first_s, 1e-12), 0, 1)
        return float(share @ output_tokens)

    def inside(time_s: Array) -> Array:
        within: Array = (time_s > start_s) & (time_s <= stop_s)
        return within

    duration_s = stop_s - start_s
    ended, prefilled = int(inside(end_s).sum()), int(done["prompt_tokens"][inside(first_s)].sum())
    rates = _rates(ended, prefilled, produced(stop_s) - produced(start_s), duration_s)
    return {"start_s": start_s, "duration_s": duration_s, **rates}


def _goodput(measured: Columns, slo: Slo, duration_s: float | None) -> Json:
    met = met_by_limit(measured, slo)
    sent = int(was_sent(measured).sum())
    good = int(np.logical_and.reduce(list(met.values())).sum()) if met else None
    return {
        "slo": slo.name,
        "limits": slo.limits,
        "requests_per_s": _ratio(good, duration_s),
        "attainment": _ratio(good, sent),
        "attainment_by_limit": {limit: _ratio(int(flags.sum()), sent) for limit, flags in met.items()},
    }


def _cache(measured: Columns, steps: Columns | None) -> Json:
    def known_sum(values: Array) -> int | None:
        known = values != NULL
        return int(values[known].sum()) if known.any() else None

    def ratio(hits: Array) -> float | None:
        known = hits != NULL
        return _ratio(int(hits[known].sum()), int(measured["prompt_tokens"][known].sum()))

    return {
        "hit_ratio": ratio(measured["cached_tokens"]),
        "ideal_hit_ratio": ratio(measured["ideal_cached_tokens"]),
        "cached_tokens": known_sum(measured["cached_tokens"]),
        "ideal_cached_tokens": known_sum(measured["ideal_cached_tokens"]),
        "evicted_pages": known_sum(steps["evicted_pages"]) if steps is not None else None,
        "recomputed_tokens": known_sum(measured["recomputed_tokens"]),
        "preemptions": known_sum(measured["preemptions"]),
    }


def _load(measured: Columns, median_ttft_s: float | None) -> Json:
    arrival_s, lag = measured["arrival_s"][was_sent(measured)], Sample(measured["send_lag_s"])
    span_s = float(arrival_s.max() - arrival_s.min()) if len(arrival_s) else 0.0
    p50, p99 = map(float, lag.quantile([0.5, 0.99])) if lag.count else (None, None)
    tolerated_s = max(0.010, 0.05 * (median_ttft_s or 0.0))
    return {
        "offered_requests_per_s": _ratio(len(arrival_s) - 1, span_s),
        "send_lag_s": {"p50": p50, "p99": p99},
        "degraded": None if p99 is None else p99 > tolerated_s,
    }


def _counts(measured: Columns, warmup: int) -> Json:
    by_status = np.bincount(measured["status"], minlength=len(STATUSES))
    return {
        "requests": len(measured["status"]),
        "sent": int(was_sent(measured).sum()),
        **{status: int(count) for status, count in zip(STATUSES, by_status, strict=True)},
        "warmup": warmup,
    }

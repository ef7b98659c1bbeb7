"""The block that ends a run: vLLM's words and order, and below them what vLLM does not say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.metrics.slo import limit_text
from harness.report.terminal import UNKNOWN, figure

if TYPE_CHECKING:
    from collections.abc import Mapping

WIDTH = 50
LABEL_WIDTH = 40


def final_block(summary: Mapping[str, Any]) -> str:
    """A run's summary as text, in the words and the order of ``vllm bench serve``.

    What is unknown prints as ``-``. TTFT and E2EL are from intended arrival; vLLM's TTFT, which is from send,
    stands below ours.

    Args:
        summary: As :func:`harness.metrics.summary.summarize` gives it.

    Returns:
        Lines of one label and one value, without a newline at the end.
    """
    metrics = summary["metrics"]
    lines = [
        _rule(" Serving Benchmark Result ", "="),
        *_requests(summary["counts"]),
        *_throughput(summary),
        _rule("Time to First Token", "-"),
        *_latency("TTFT", metrics["ttft_s"]),
        *_latency("TTFT from send", metrics["ttft_from_send_s"]),
        _rule("Time per Output Token (excl. 1st token)", "-"),
        *_latency("TPOT", metrics["tpot_s"]),
        _rule("Inter-token Latency", "-"),
        *_latency("ITL", metrics["itl_s"]),
        _rule("End-to-end Latency", "-"),
        *_latency("E2EL", metrics["e2e_s"]),
        _rule("Queue", "-"),
        *_latency("queue", metrics["queue_s"]),
        *_cache(summary["cache"]),
        *_goodput(summary["goodput"]),
        *_load(summary["load"]),
        "=" * WIDTH,
        "TTFT, E2EL and goodput count from intended arrival, whatever the client's lag.",
        *remarks(summary),
    ]
    return "\n".join(lines)


def final_line(summary: Mapping[str, Any]) -> str:
    """A run's summary in one line, for one of many runs."""
    metrics, throughput, goodput = summary["metrics"], summary["throughput"], summary["goodput"]
    said = [
        f"{summary['counts']['ok']:,} requests ok",
        f"{figure(throughput['requests_per_s'])} req/s",
        *([f"goodput {figure(goodput['requests_per_s'])} req/s"] if goodput["limits"] else []),
        f"TTFT p50 {figure(metrics['ttft_s']['p50'], scale=1e3)} p99 {figure(metrics['ttft_s']['p99'], scale=1e3)} ms",
        f"TPOT p50 {figure(metrics['tpot_s']['p50'], scale=1e3)} ms",
        *(["DEGRADED"] if summary["load"]["degraded"] else []),
        *(["INCOMPLETE"] if not summary["complete"] else []),
    ]
    return ", ".join(said)


def _requests(counts: Mapping[str, int]) -> list[str]:
    failed = counts["error"] + counts["timeout"]
    others = [(status, counts[status]) for status in ("aborted", "rejected", "unfinished")]
    return [
        _line("Successful requests:", counts["ok"]),
        _line("Failed requests:", failed),
        *(_line(f"{status.capitalize()} requests:", count) for status, count in others if count),
    ]


def _throughput(summary: Mapping[str, Any]) -> list[str]:
    throughput, goodput = summary["throughput"], summary["goodput"]
    good = [_line("Request goodput (req/s):", goodput["requests_per_s"])] if goodput["limits"] else []
    steady = throughput["steady"]
    return [
        _line("Request rate offered (req/s):", summary["load"]["offered_requests_per_s"]),
        _line("Benchmark duration (s):", throughput["duration_s"]),
        _line("Total input tokens:", throughput["input_tokens"]),
        _line("Total generated tokens:", throughput["output_tokens"]),
        _line("Request throughput (req/s):", throughput["requests_per_s"]),
        *good,
        _line("Output token throughput (tok/s):", throughput["output_tokens_per_s"]),
        _line("Total Token throughput (tok/s):", throughput["total_tokens_per_s"]),
        _line("Steady request throughput (req/s):", steady["requests_per_s"]),
        _line("Steady output throughput (tok/s):", steady["output_tokens_per_s"]),
    ]


def _latency(label: str, metric: Mapping[str, Any]) -> list[str]:
    return [
        _line(f"Mean {label} (ms):", metric["mean"], 1e3),
        _line(f"Median {label} (ms):", metric["p50"], 1e3),
        _line(f"P99 {label} (ms):", metric["p99"], 1e3),
    ]


def _cache(cache: Mapping[str, Any]) -> list[str]:
    return [
        _rule("Prefix Cache", "-"),
        _line("Hit ratio (% of prompt tokens):", cache["hit_ratio"], 100),
        _line("Hit ratio of unbounded cache (%):", cache["ideal_hit_ratio"], 100),
        _line("Cached tokens:", cache["cached_tokens"]),
        _line("Evicted pages:", cache["evicted_pages"]),
        _line("Preemptions:", cache["preemptions"]),
        _line("Recomputed tokens:", cache["recomputed_tokens"]),
    ]


def _goodput(goodput: Mapping[str, Any]) -> list[str]:
    if not goodput["limits"]:
        return []
    by_limit = goodput["attainment_by_limit"]
    return [
        _rule("SLO" if goodput["slo"] == "none" else f"SLO {goodput['slo']}", "-"),
        _line("Attainment (% of sent):", goodput["attainment"], 100),
        *(
            _line(f"{limit_text(limit, value)} (% of sent):", by_limit[limit], 100)
            for limit, value in goodput["limits"].items()
        ),
    ]


def _load(load: Mapping[str, Any]) -> list[str]:
    return [
        _rule("Client", "-"),
        _line("Median send lag (ms):", load["send_lag_s"]["p50"], 1e3),
        _line("P99 send lag (ms):", load["send_lag_s"]["p99"], 1e3),
    ]


def remarks(summary: Mapping[str, Any]) -> list[str]:
    """What a reader must know to trust a run's figures.

    Args:
        summary: As :func:`harness.metrics.summary.summarize` gives it.
    """
    metrics = summary["metrics"]
    few = [name.removesuffix("_s").upper() for name in ("ttft_s", "tpot_s") if metrics[name]["low_samples"]]
    found = [f"P99 of {' and '.join(few)} rests on fewer than 1,000 samples."] if few else []
    if summary["load"]["degraded"]:
        found.append("DEGRADED: the client sent late; its own lag is part of what is measured.")
    if not summary["complete"]:
        found.append("INCOMPLETE: the run was interrupted; these are the requests measured so far.")
    return found


def _line(label: str, value: float | None, scale: float = 1) -> str:
    if value is None:
        text = UNKNOWN
    elif isinstance(value, int) and scale == 1:
        text = str(value)
    else:
        text = figure(value, scale=scale)
    return f"{label:<{LABEL_WIDTH}} {text:<10}".rstrip()


def _rule(title: str, fill: str) -> str:
    return f"{title:{fill}^{WIDTH}}".rstrip()

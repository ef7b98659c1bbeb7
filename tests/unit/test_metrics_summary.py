"""A run's summary and the block that people paste: definitions, and what is unknown."""

import json

import numpy as np
import pytest

from harness.metrics.schema import NULL, STATUSES, Gaps, complete_requests, complete_steps
from harness.metrics.slo import Slo
from harness.metrics.summary import METRICS, PERCENTILES, REQUEST_METRICS, summarize
from harness.report.console import final_block

NO_SLO = Slo("none")


def code(status):
    return STATUSES.index(status)


def table(n=100, **changes):
    """One request a second; the first token after 0.5 s, then ten gaps of 0.1 s."""
    arrival_s = np.arange(n, dtype=float)
    base = {
        "request_id": np.arange(n),
        "arrival_s": arrival_s,
        "sent_s": arrival_s + 0.001,
        "queued_s": arrival_s + 0.01,
        "scheduled_s": arrival_s + 0.11,
        "first_token_s": arrival_s + 0.45,
        "last_token_s": arrival_s + 1.45,
        "client_first_token_s": arrival_s + 0.5,
        "client_last_token_s": arrival_s + 1.5,
        "prompt_tokens": np.full(n, 100),
        "output_tokens": np.full(n, 11),
        "cached_tokens": np.full(n, 25),
        "ideal_cached_tokens": np.full(n, 40),
        "recomputed_tokens": np.full(n, 3),
        "preemptions": np.zeros(n, dtype=np.int64),
        "priority": np.zeros(n, dtype=np.int64),
        "status": np.zeros(n, dtype=np.int8),
        "warmup": np.zeros(n, dtype=bool),
    }
    return {**base, **changes}


def summary_of(base, *, slo=NO_SLO, **rest):
    return summarize(complete_requests(base), slo=slo, environment={}, complete=True, **rest)


def with_failures(n=100):
    """Of 100 requests: 10 end in error without a token, 5 are rejected, 5 never sent."""
    base = table(n)
    base["status"][:10], base["status"][10:15] = code("error"), code("rejected")
    base["status"][95:] = code("unfinished")
    for name in ("client_first_token_s", "client_last_token_s"):
        base[name][:15] = base[name][95:] = np.nan
    base["sent_s"][95:] = np.nan
    base["cached_tokens"][:15] = base["cached_tokens"][95:] = NULL
    return base


def test_percentiles_are_numpys_over_the_requests_that_ended_ok():
    generator = np.random.default_rng(0)
    base = with_failures()
    base["client_first_token_s"] += generator.exponential(size=100)
    base["client_last_token_s"] += 9
    metric = summary_of(base)["metrics"]["ttft_s"]
    ttft_s = (base["client_first_token_s"] - base["arrival_s"])[15:95]
    assert metric["count"] == 80
    assert metric["mean"] == pytest.approx(ttft_s.mean())
    assert metric["std"] == pytest.approx(ttft_s.std())
    assert (metric["min"], metric["max"]) == (ttft_s.min(), ttft_s.max())
    for name, share in PERCENTILES.items():
        assert metric[name] == np.quantile(ttft_s, share), name
    for name in ("mean", "p50", "p99"):
        low, high = metric["ci95"][name]
        assert low <= metric[name] <= high


def test_every_metric_is_there_and_p99_of_few_is_flagged():
    metrics = summary_of(table(999))["metrics"]
    assert tuple(metrics) == METRICS
    assert metrics["ttft_s"]["low_samples"]
    assert not summary_of(table(1000))["metrics"]["ttft_s"]["low_samples"]


def test_throughput_spans_first_arrival_to_last_completion_and_the_steady_window_leaves_the_ends_out():
    throughput = summary_of(table(100))["throughput"]
    assert throughput["duration_s"] == pytest.approx(100.5)
    assert throughput["requests_per_s"] == pytest.approx(100 / 100.5)
    assert throughput["input_tokens_per_s"] == pytest.approx(10_000 / 100.5)
    assert throughput["output_tokens_per_s"] == pytest.approx(1_100 / 100.5)
    assert throughput["total_tokens_per_s"] == pytest.approx(11_100 / 100.5)
    assert throughput["steady"]["requests_per_s"] == pytest.approx(1)
    assert throughput["steady"]["input_tokens_per_s"] == pytest.approx(100)
    assert throughput["steady"]["output_tokens_per_s"] == pytest.approx(11)


def test_steady_window_of_a_batch_that_arrives_at_once_is_not_empty():
    base = table(100, arrival_s=np.zeros(100))
    steady = summary_of(base)["throughput"]["steady"]
    assert steady["requests_per_s"] == pytest.approx(1)
    assert summary_of(table(9))["throughput"]["steady"]["requests_per_s"] is None


def test_goodput_counts_over_the_requests_that_were_sent():
    base = with_failures()
    base["client_first_token_s"][15:35] += 0.4  # 20 too late for TTFT, and faster between tokens
    goodput = summary_of(base, slo=Slo("test", ttft_s=0.6, tpot_s=0.2))["goodput"]
    duration_s = summary_of(base)["throughput"]["duration_s"]
    assert goodput["attainment"] == pytest.approx(60 / 95)
    assert goodput["attainment_by_limit"] == pytest.approx({"ttft_s": 60 / 95, "tpot_s": 80 / 95})
    assert goodput["requests_per_s"] == pytest.approx(60 / duration_s)
    assert summary_of(base)["goodput"]["requests_per_s"] is None


def test_cache_is_counted_in_tokens_of_the_requests_that_were_admitted():
    steps = {
        "start_s": np.zeros(2),
        "duration_s": np.ones(2),
        "prefill_tokens": np.ones(2, dtype=np.int64),
        "decode_tokens": np.ones(2, dtype=np.int64),
        "sequences": np.ones(2, dtype=np.int64),
        "evicted_pages": np.array([3, 4]),
    }
    cache = summary_of(with_failures(), steps=complete_steps(steps))["cache"]
    assert cache["hit_ratio"] == 0.25
    assert cache["ideal_hit_ratio"] == 0.4
    assert (cache["cached_tokens"], cache["evicted_pages"], cache["recomputed_tokens"]) == (2000, 7, 300)


def test_counts_by_status_add_up_and_warm_up_is_left_out():
    base = with_failures()
    base["warmup"][15:25] = True
    summary = summary_of(base)
    counts = summary["counts"]
    assert {status: counts[status] for status in STATUSES} == {
        "ok": 70,
        "error": 10,
        "timeout": 0,
        "aborted": 0,
        "rejected": 5,
        "unfinished": 5,
    }
    assert (counts["requests"], counts["sent"], counts["warmup"]) == (90, 85, 10)
    assert summary["metrics"]["e2e_s"]["count"] == 70


@pytest.mark.parametrize(("lag_s", "ttft_s", "degraded"), [(0.009, 0.5, False), (0.03, 0.5, True), (0.03, 1, False)])
def test_degraded_when_the_client_is_late_beyond_its_tolerance(lag_s, ttft_s, degraded):
    base = table()
    base["sent_s"] = base["arrival_s"] + lag_s
    base["client_first_token_s"] = base["arrival_s"] + ttft_s
    load = summary_of(base)["load"]
    assert load["degraded"] is degraded
    assert load["send_lag_s"]["p99"] == pytest.approx(lag_s)
    assert load["offered_requests_per_s"] == pytest.approx(1)


def test_itl_pools_the_gaps_of_all_requests():
    itl = summary_of(table(), gaps=Gaps(np.array([0.2, 0.1]), np.array([1, 99])))["metrics"]["itl_s"]
    assert (itl["count"], itl["p50"], itl["max"]) == (100, 0.1, 0.2)
    assert itl["p99"] == np.quantile([0.1] * 99 + [0.2], 0.99)


def test_a_run_of_which_nothing_ended_has_a_summary_of_unknowns():
    base = table(3, status=np.full(3, code("unfinished"), dtype=np.int8))
    for name in ("sent_s", "client_first_token_s", "client_last_token_s", "queued_s", "scheduled_s"):
        base[name] = np.full(3, np.nan)
    for name in ("cached_tokens", "ideal_cached_tokens", "recomputed_tokens", "preemptions"):
        del base[name]
    summary = summary_of(base, slo=Slo("test", ttft_s=1))
    json.dumps(summary, allow_nan=False)
    assert summary["throughput"]["requests_per_s"] is None
    assert summary["cache"]["hit_ratio"] is None
    assert summary["load"]["degraded"] is None
    block = final_block(summary)
    for label in (
        "P99 TTFT (ms):",
        "Hit ratio (% of prompt tokens):",
        "P99 send lag (ms):",
        "Evicted pages:",
    ):
        assert value_of(block, label) == "-", label


def value_of(block, label):
    (line,) = [line for line in block.splitlines() if line.startswith(label)]
    return line.removeprefix(label).strip()


def test_the_block_keeps_vllms_words_and_order():
    lines = final_block(summary_of(table(), slo=Slo("chat", ttft_s=1.0))).splitlines()
    assert lines[0] == "============ Serving Benchmark Result ============"
    words = [
        "Successful requests:                     100",
        "Failed requests:                         0",
        "Benchmark duration (s):                  100.50",
        "Total input tokens:                      10000",
        "Total generated tokens:                  1100",
        "Request throughput (req/s):              1.00",
        "Request goodput (req/s):                 1.00",
        "Output token throughput (tok/s):         10.95",
        "Total Token throughput (tok/s):          110.45",
        "---------------Time to First Token----------------",
        "Mean TTFT (ms):                          500.00",
        "Median TTFT (ms):                        500.00",
        "P99 TTFT (ms):                           500.00",
        "Mean TTFT from send (ms):                499.00",
        "-----Time per Output Token (excl. 1st token)------",
        "Mean TPOT (ms):                          100.00",
        "---------------Inter-token Latency----------------",
        "Mean ITL (ms):                           -",
        "Mean E2EL (ms):                          1500.00",
        "Hit ratio (% of prompt tokens):          25.00",
        "Attainment (% of sent):                  100.00",
        "P99 send lag (ms):                       1.00",
    ]
    assert [line for line in lines if line in words] == words


def test_the_block_says_what_ended_badly():
    base = with_failures()
    base["sent_s"] = base["arrival_s"] + 0.2
    summary = summarize(complete_requests(base), slo=NO_SLO, environment={}, complete=False)
    block = final_block(summary)
    assert (value_of(block, "Rejected requests:"), value_of(block, "Unfinished requests:")) == ("5", "5")
    assert "DEGRADED" in block
    assert "INCOMPLETE" in block
    assert "Request goodput" not in block
    assert "DEGRADED" not in final_block(summary_of(table()))


def test_request_metrics_are_columns():
    assert set(REQUEST_METRICS) <= set(complete_requests(table()))

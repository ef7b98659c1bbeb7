"""Capacity: the search finds what is there, says how sure it is, and holds on the simulator."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.cli import main
from harness.compose import compose
from harness.config import ConfigError
from harness.metrics import schema
from harness.metrics.slo import Slo
from harness.sweep.capacity import FURTHEST, Probe, ProbeTask, Search, crossing, limiting, measure, probe
from harness.sweep.cell import replay

REQUESTS = 400
SYNTHETIC = ["trace=generated", "model=llama3_8b", "trace.generate.requests=150", "trace.rate=16"]


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def of(rate: float, met: np.ndarray) -> Probe:
    return Probe(rate, met, {"ttft_s": float(met.mean()), "tpot_s": 1.0}, REQUESTS / rate, None, None, None)


def found(search: Search, threshold: float, noise: np.ndarray | None = None) -> Search:
    """Search a server of which each request is met below its own rate: the threshold, or about it."""
    own = threshold * (np.ones(REQUESTS) if noise is None else np.exp(noise))
    while (rate := search.next_rate) is not None:
        search.tell(of(rate, rate <= own))
    return search


@given(st.floats(0.01, 1000), st.floats(0.005, 0.5), st.floats(0.1, 100))
def test_a_known_threshold_is_found_to_the_tolerance(threshold: float, tolerance: float, first: float) -> None:
    if not first / FURTHEST < threshold < first * FURTHEST:
        return
    search = found(Search(0.9, tolerance, first), threshold)
    assert search.best is not None
    assert search.above is not None
    assert search.best.rate <= threshold < search.above.rate
    assert search.above.rate <= search.best.rate * (1 + tolerance)
    doublings = abs(np.log2(threshold / first)) + 2
    assert len(search.probes) <= doublings + np.log2(np.log(2) / np.log1p(tolerance)) + 2


@given(st.sampled_from([0.5, 0.9, 0.99]), st.integers(0, 5))
def test_the_share_that_is_asked_for_decides(target: float, seed: int) -> None:
    noise = np.random.default_rng(seed).normal(0, 0.3, REQUESTS)
    search = found(Search(target, 0.01), 10.0, noise)
    assert search.best is not None
    assert search.best.rate == pytest.approx(10 * np.exp(np.quantile(noise, 1 - target)), rel=0.03)


def test_a_server_that_is_never_full_has_no_capacity_and_one_that_is_always_has_none() -> None:
    never = found(Search(0.9, 0.02), float("inf"))
    assert never.above is None
    assert never.best is not None
    assert never.capacity is None
    always = found(Search(0.9, 0.02), 0.0)
    assert always.best is None
    assert always.above is not None


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    truth = 10 * np.exp(-0.3 * 1.2815515655446004)  # the 10 % quantile of where requests stop being met
    covered = 0
    for _ in range(60):
        search = found(Search(0.9, 0.005), 10.0, rng.normal(0, 0.3, REQUESTS))
        low, high = search.interval()
        covered += low <= truth <= high
        assert low < high
    assert 50 <= covered <= 60


@settings(max_examples=20)
@given(st.integers(0, 10_000), st.sampled_from([0.5, 0.9, 0.99]), st.sampled_from([0.02, 0.2]))
def test_a_capacity_lies_within_its_interval_and_between_the_rates_tried(
    seed: int, target: float, tolerance: float
) -> None:
    search = found(Search(target, tolerance), 10.0, np.random.default_rng(seed).normal(0, 0.05, REQUESTS))
    low, high = search.interval()
    assert search.capacity is not None
    assert low <= search.capacity <= high
    assert search.best is not None
    assert search.above is not None
    assert search.best.rate * (1 - 1e-9) <= search.capacity <= search.above.rate * (1 + 1e-9)


def test_requests_that_are_alike_in_blocks_make_the_interval_wider() -> None:
    rng = np.random.default_rng(2)
    alone = rng.normal(0, 0.3, REQUESTS)
    together = np.repeat(rng.normal(0, 0.3, 20), REQUESTS // 20)
    width = {}
    for name, noise in (("alone", alone), ("together", together)):
        low, high = found(Search(0.9, 0.005), 10.0, noise).interval()
        width[name] = np.log(high / low)
    assert width["together"] > 2 * width["alone"]


@pytest.mark.parametrize(
    ("share", "at"),
    [
        ([1.0, 0.8, 0.0], 0.5),
        ([1.0, 0.9, 0.0], 1.0),
        ([1.0, 1.0, 1.0], 2.0),
        ([0.5, 0.5, 0.5], 0.0),
        ([1.0, 0.8, 1.0], 0.5),
    ],
)
def test_crossing(share: list[float], at: float) -> None:
    assert crossing(np.arange(3.0), np.array(share), 0.9) == pytest.approx(at)


def test_what_gives_is_the_limit_that_most_miss() -> None:
    missed = Probe(1.0, np.zeros(2, dtype=bool), {"ttft_s": 0.9, "tpot_s": 0.2}, 1.0, None, None, None)
    assert limiting(missed) == "tpot_s"
    assert limiting(None) is None


def test_a_probe_is_what_a_run_says_of_goodput_and_rates_are_paired_by_request() -> None:
    config = compose([*SYNTHETIC, "slo.ttft_s=0.1", "slo.tpot_s=0.04"])
    fast = replace(config, trace=replace(config.trace, rate=40.0))
    trace, record = replay(fast)
    requests = schema.complete_requests(record.requests)
    table = schema.select(requests, np.argsort(requests["request_id"], kind="stable")[::-1])  # in another order
    measured = measure(40.0, table, Slo(**fast.slo), trace)
    by_id = dict(zip(requests["request_id"], (requests["ttft_s"] <= 0.1) & (requests["tpot_s"] <= 0.04), strict=True))
    assert [bool(met) for met in measured.met] == [bool(by_id[request]) for request in trace.request_id]
    assert 0 < measured.attainment < 1
    same = probe(ProbeTask(config, 40.0))
    assert (same.met == measured.met).all()
    assert same.ttft_p99_s == measured.ttft_p99_s


def test_the_simulator_meets_the_slo_at_its_capacity_and_misses_it_above(capsys: pytest.CaptureFixture[str]) -> None:
    words = [*SYNTHETIC, "slo=llama3_8b", "slo.ttft_s=0.2", "slo.tpot_s=0.02"]
    assert main(["capacity", *words, "--over", "tp=1,2", "--out", "probes.csv", "--plot", "plot.png"]) == 0
    said = capsys.readouterr().out
    assert "95 % interval" in said
    assert Path("plot.png").read_bytes().startswith(b"\x89PNG")
    table = pd.read_csv("probes.csv")
    best = table[table.meets].groupby("run").rate.max()
    above = table[~table.meets].groupby("run").rate.min()
    assert set(best.index) == {"tp=1", "tp=2"}
    assert (above <= best * 1.02).all()
    assert best["tp=2"] > best["tp=1"], "two GPUs carry more"
    config = compose([*words, "tp=1"])
    for rate, meets in ((best["tp=1"], True), (above["tp=1"], False)):
        assert (probe(ProbeTask(config, rate)).attainment >= 0.9) is meets


def test_what_cannot_run_does_not_stop_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    words = [*SYNTHETIC, "slo=llama3_8b", "trace.generate.requests=20", "--tolerance", "1"]
    assert main(["capacity", *words, "--over", "tp=3,1"]) == 1
    said = capsys.readouterr().out
    assert "tp=3 does not divide" in said
    assert "tp=1" in said


def test_a_trace_too_short_to_fill_the_server_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["capacity", *SYNTHETIC, "slo=llama3_8b", "trace.generate.requests=3"]) == 1
    assert "too short to fill the server" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["slo=none"], "slo=none: it has no limits"),
        (["tp=1"], "slo=none: it has no limits"),
        (["slo=foo"], "llama3_8b"),
        (["slo=llama3_8b", "workload=closed", "workload.concurrency=4"], "workload.arrivals=closed"),
        (["slo=llama3_8b", "trace.rate_scale=2"], "trace.rate_scale=2"),
        (["slo=llama3_8b", "trace.rate=-1"], "rate"),
        (["slo=llama3_8b", "tp=3"], "tp=3 does not divide"),
        (["slo=llama3_8b", "--attainment", "90"], "--attainment 90"),
        (["slo=llama3_8b", "--tolerance", "0"], "--tolerance 0"),
        (["slo=llama3_8b", "--out", "probes.txt"], "probes.txt"),
        (["slo=llama3_8b", "--workers", "0"], "--workers 0"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["capacity", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("harness capacity: ")
    assert error.count("\n") == 1
    assert said in error


def test_sessions_that_cannot_come_as_fast_as_asked_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["slo.ttft_s=0.2", "trace=generated", "trace.generate.requests=200", "trace.generate.turns.mean=4"]
    assert main(["capacity", *words, "trace.rate=64", "--tolerance", "0.5"]) == 0
    assert "requests/s came, since turns wait for those before them: not a capacity" in capsys.readouterr().out


def test_a_search_refuses_what_cannot_be() -> None:
    for target, tolerance in ((0.0, 0.1), (1.1, 0.1), (0.9, 0.0), (0.9, 2.0)):
        with pytest.raises(ConfigError):
            Search(target, tolerance)


def test_the_limits_that_are_met_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["capacity", *SYNTHETIC, "slo.ttft_s=1", "--tolerance", "1"]) in (0, 1)
    assert "90 % of the requests meet SLO TTFT <= 1000 ms\n" in capsys.readouterr().out
    assert str(Slo("chat", ttft_s=2.0, tpot_s=0.1)) == "SLO chat (TTFT <= 2000 ms, TPOT <= 100 ms)"

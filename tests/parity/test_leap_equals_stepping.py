"""Leaping over decode steps gives the tables that running them one by one gives, to the last bit."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.backends.sim import replay
from harness.compose import compose
from harness.config import EngineConfig, ExperimentConfig
from harness.cost.clocks import PowerLimit
from harness.cost.roofline import Roofline
from harness.record import RunRecord
from harness.simulator.engine import SchedulerCosts
from harness.simulator.frontend import HopCosts
from harness.workload import Arrivals, Workload
from policies.registry import PARTS as BUILT_IN
from runtime.scheduler import Ahead, DecodeRun, LeapingScheduler
from tests.core.driver import PARTS as PLAIN
from tests.core.scenarios import PARTS
from traces.generate import Distribution, SyntheticWorkload, generate
from traces.schema import Trace

COSTS = {
    "usual": ({}, {}),
    "none": (
        {field.name: 0.0 for field in fields(SchedulerCosts)},
        {field.name: 0.0 for field in fields(HopCosts) if field.name != "tokenizers"},
    ),
    # The host, and every process behind it, is slower than the device.
    "huge": (
        {"schedule_s": 20e-3, "schedule_sequence_s": 1e-3, "commit_s": 10e-3, "commit_sequence_s": 2e-3},
        {"detokenize_s": 30e-3, "detokenize_token_s": 3e-3, "send_s": 40e-3, "send_token_s": 1e-3},
    ),
}
LIMIT = PowerLimit(settles_s=0.05, compute=0.2, memory=0.05, pause_s=0.02)


@cache
def base(model: str) -> ExperimentConfig:
    return compose([f"model={model}", "hardware=h100"])


@dataclass(frozen=True)
class Case:
    """A trace, how it is sent, and a server."""

    trace: Trace
    arrivals: Arrivals
    concurrency: int
    model: str
    engine: EngineConfig
    costs: str
    policy: dict[str, Any]
    power_limit: PowerLimit | None = None

    def replay(self, *, leap: bool) -> RunRecord:
        loop, hops = COSTS[self.costs]
        backend = {"name": "sim", "leap": leap, "loop": loop, "hops": hops}
        config = replace(base(self.model), engine=self.engine, policy=self.policy, backend=backend)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Roofline, "power_limit", self.power_limit)
            record = replay(config, Workload(self.trace, self.arrivals, self.concurrency), lambda _: True)
        assert record.complete
        return record


def assert_equal(leapt: RunRecord, stepped: RunRecord) -> None:
    assert leapt.steps is not None
    assert stepped.steps is not None
    for table in ("requests", "steps"):
        ours, theirs = getattr(leapt, table), getattr(stepped, table)
        assert ours.keys() == theirs.keys()
        for column in ours:
            _same(f"{table}.{column}", ours[column], theirs[column])
    for name in ("decisions", "gaps"):
        ours, theirs = getattr(leapt, name), getattr(stepped, name)
        for field in fields(ours):
            _same(f"{name}.{field.name}", getattr(ours, field.name), getattr(theirs, field.name))


def _same(what: str, ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.dtype == theirs.dtype, what
    assert ours.shape == theirs.shape, what
    if ours.dtype == object:
        assert ours.tolist() == theirs.tolist(), what
    else:
        assert ours.tobytes() == theirs.tobytes(), f"{what}: {ours} != {theirs}"


def peopled(trace: Trace, tenants: int) -> Trace:
    """With tenants, priorities and deadlines, for the policies that look at them."""
    rng = np.random.default_rng(len(trace))
    return trace.with_columns(
        client_id=rng.integers(-1, tenants, len(trace)),
        priority=rng.integers(0, 3, len(trace)),
        deadline_s=rng.choice([np.nan, 0.1, 1.0, 10.0], len(trace)),
    )


@st.composite
def cases(draw: st.DrawFn) -> Case:
    arrivals = draw(st.sampled_from(Arrivals), label="arrivals")
    synthetic = SyntheticWorkload(
        requests=draw(st.integers(1, 25), label="requests"),
        rate=draw(st.sampled_from([2.0, 8.0, 40.0, 400.0]), label="rate"),
        input=Distribution("uniform", low=1, high=draw(st.sampled_from([4, 60]))),
        output=Distribution("uniform", low=1, high=draw(st.sampled_from([3, 40, 120]))),
        turns=Distribution("fixed", mean=draw(st.sampled_from([1, 1, 3]), label="turns")),
        think_s=Distribution("exponential", mean=draw(st.sampled_from([0.0, 0.3]))),
        prefixes=draw(st.sampled_from([0, 2]), label="prefixes"),
        prefix_tokens=Distribution("uniform", low=1, high=40),
        seed=draw(st.integers(0, 2**16), label="seed"),
    )
    trace = peopled(generate(synthetic), draw(st.integers(1, 4), label="tenants"))
    page_size = draw(st.sampled_from([1, 2, 4, 16]), label="page_size")
    longest = int((trace.prompt_tokens + trace.max_tokens).max())
    factor = draw(st.sampled_from([1.0, 1.2, 2.0, 50.0, 0.8]), label="KV memory over the longest request")
    engine = EngineConfig(
        page_size=page_size,
        pages=max(int(-(-longest // page_size) * factor), 1),
        max_running=draw(st.sampled_from([1, 3, 8, 64]), label="max_running"),
        overlap=draw(st.booleans(), label="overlap"),
        cuda_graph=draw(st.booleans(), label="cuda_graph"),
    )
    policy = {
        part: draw(st.one_of(st.just(PLAIN[part]), strategy) if part in PLAIN else strategy, label=part)
        for part, strategy in PARTS.items()
    }
    return Case(
        trace,
        arrivals,
        concurrency=draw(st.integers(1, 6)) if arrivals is Arrivals.CLOSED else 0,
        model=draw(st.sampled_from(["llama3_8b", "qwen3_30b_a3b"])),
        engine=engine,
        costs=draw(st.sampled_from(sorted(COSTS)), label="costs"),
        policy=policy,
        power_limit=draw(st.sampled_from([None, LIMIT]), label="power limit"),
    )


@settings(max_examples=settings().max_examples // 2)
@given(cases())
def test_tables_are_byte_equal(case: Case) -> None:
    assert_equal(case.replay(leap=True), case.replay(leap=False))


def test_a_request_comes_while_the_host_launches_the_first_of_a_run() -> None:
    """Nothing was committed since: the loop looks for requests when the launch is done, before it steps on."""
    prompts, outputs = [1, 21, 52, 7, 59], [24, 40, 6, 26, 30]
    trace = Trace.build("five", arrival_s=np.arange(5.0), prompt_tokens=prompts, output_tokens=outputs)
    engine = EngineConfig(page_size=1, pages=89, max_running=3, cuda_graph=False)
    policy = {**PLAIN, "batching": {"name": "prefill_first", "step_tokens": 16}, "reservation": {"name": "none"}}
    case = Case(trace, Arrivals.CLOSED, 3, "llama3_8b", engine, "none", policy)
    assert_equal(case.replay(leap=True), case.replay(leap=False))


@cache
def busy() -> Trace:
    """Conversations of several tenants, more than memory has room for at a time."""
    trace = generate(
        SyntheticWorkload(
            requests=40,
            rate=30.0,
            input=Distribution("uniform", low=1, high=120),
            output=Distribution("uniform", low=1, high=150),
            turns=Distribution("fixed", mean=2),
            think_s=Distribution("exponential", mean=0.2),
            prefixes=3,
            prefix_tokens=Distribution("uniform", low=36, high=80),
        )
    )
    return peopled(trace, 3)


@pytest.mark.parametrize(("part", "name"), [(part, name) for part, room in BUILT_IN.items() for name in room.builtin])
def test_every_policy_decides_alike_when_it_leaps(part: str, name: str) -> None:
    # A budget that shrinks from everything to almost nothing as what decodes grows.
    small = {"slo_chunked": {"tbt_s": 0.006, "min_tokens": 1, "context_token_s": 5e-6}}
    policy = {**PLAIN, "reservation": {"name": "none"}, part: {"name": name, **small.get(name, {})}}
    engine = EngineConfig(page_size=2, pages=420, max_running=6)
    case = Case(busy(), Arrivals.OPEN, 0, "llama3_8b", engine, "usual", policy)
    record = case.replay(leap=True)
    assert record.steps is not None
    assert record.steps["waiting"].max() > 5
    assert_equal(record, case.replay(leap=False))


@pytest.mark.parametrize("overlap", [True, False])
def test_clocks_at_a_power_limit_fall_and_rise_alike(overlap: bool) -> None:
    engine = EngineConfig(page_size=2, pages=420, max_running=6, overlap=overlap)
    case = Case(busy(), Arrivals.OPEN, 0, "llama3_8b", engine, "none", PLAIN, LIMIT)
    record, free = case.replay(leap=True), replace(case, power_limit=None).replay(leap=True)
    assert record.steps is not None
    assert free.steps is not None
    assert record.steps["duration_s"].tolist() != free.steps["duration_s"].tolist()
    assert_equal(record, case.replay(leap=False))


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("costs", sorted(COSTS))
@pytest.mark.parametrize("reservation", ["full", "none"])
def test_most_steps_of_a_long_decode_are_leapt_over(
    overlap: bool, costs: str, reservation: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under page growth, eviction and waiting requests too: the test above is not about leaps that never happen."""
    leapt = 0
    leap = LeapingScheduler.leap

    def counted(scheduler: LeapingScheduler, ahead: Ahead, steps: int) -> DecodeRun:
        nonlocal leapt
        leapt += steps
        return leap(scheduler, ahead, steps)

    monkeypatch.setattr(LeapingScheduler, "leap", counted)
    trace = generate(
        SyntheticWorkload(
            requests=24,
            rate=2.0 if costs != "huge" else 0.4,
            input=Distribution("uniform", low=1, high=60),
            output=Distribution("uniform", low=100, high=400),
            prefixes=2,
        )
    )
    engine = EngineConfig(page_size=4, pages=700, max_running=4, overlap=overlap)
    policy = {**PLAIN, "reservation": {"name": reservation}}
    case = Case(trace, Arrivals.OPEN, 0, "llama3_8b", engine, costs, policy)
    record = case.replay(leap=True)
    assert record.steps is not None
    assert leapt > 0.8 * len(record.steps["start_s"])
    assert record.steps["waiting"].max() > 0
    assert record.steps["evicted_pages"].sum() > 0
    assert_equal(record, case.replay(leap=False))

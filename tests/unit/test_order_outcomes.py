"""What an order is for, on workloads made to show it: replays through the simulator."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from harness.backends.sim import replay
from harness.compose import compose
from harness.config import EngineConfig, ExperimentConfig
from harness.workload import Arrivals, Workload
from tests.core.driver import PARTS
from traces.generate import Distribution, SyntheticWorkload, generate
from traces.schema import Trace


@cache
def base() -> ExperimentConfig:
    return compose(["model=llama3_8b", "hardware=h100"])


def latencies(trace: Trace, engine: EngineConfig, arrivals: Arrivals, **parts: dict[str, Any]) -> Any:
    """Seconds from arrival to the last token, by request."""
    config = base()
    config.engine, config.policy = engine, {**PARTS, "batching": {"name": "chunked"}, **parts}
    record = replay(config, Workload(trace, arrivals), lambda _: True)
    assert record.complete
    return record.requests["client_last_token_s"] - record.requests["arrival_s"]


def test_deadline_orders_meet_more_deadlines_than_first_come() -> None:
    """Every request is given what would be just enough time, were they served in the order of their deadlines."""
    trace = generate(
        SyntheticWorkload(
            requests=80,
            input=Distribution("fixed", mean=200),
            output=Distribution("uniform", low=50, high=300),
            seed=3,
        )
    )
    engine = EngineConfig(pages=4000, max_running=4)
    order = np.random.default_rng(1).permutation(len(trace))
    own_s = latencies(trace, EngineConfig(pages=100_000, max_running=80), Arrivals.ALL_AT_ONCE)
    all_s = latencies(trace, engine, Arrivals.ALL_AT_ONCE).max()
    deadline_s = np.empty(len(trace))
    deadline_s[order] = 1.05 * all_s * np.cumsum(trace.output_tokens[order]) / trace.output_tokens.sum() + own_s[order]
    trace = trace.with_columns(deadline_s=deadline_s)
    met = {
        name: (latencies(trace, engine, Arrivals.ALL_AT_ONCE, order={"name": name}) <= deadline_s).mean()
        for name in ("fcfs", "edf", "least_slack")
    }
    assert met["edf"] > 0.95
    assert met["least_slack"] > 0.95
    assert met["fcfs"] < 0.7


@pytest.fixture(scope="module")
def heavy() -> Trace:
    """Three in four requests are short and one in four is long, all with equal prompts; KV is too small for them."""
    trace = generate(
        SyntheticWorkload(requests=240, rate=20.0, input=Distribution("fixed", mean=100), output=Distribution("fixed"))
    )
    output = np.where(np.random.default_rng(2).random(len(trace)) < 0.25, 1000, 50)
    return trace.with_columns(output_tokens=output, max_tokens=np.full(len(trace), 1000))


@pytest.mark.parametrize(
    "parts",
    [
        {"order": {"name": "sjf"}, "prediction": {"name": "oracle"}},
        {"order": {"name": "srpt"}, "prediction": {"name": "oracle"}, "preemption": {"name": "longest_remaining"}},
        {"order": {"name": "sjf"}, "prediction": {"name": "ranks", "tau": 0.7}},
        {"order": {"name": "mlfq"}, "preemption": {"name": "most_served"}},
        {"order": {"name": "las"}, "preemption": {"name": "most_served"}},
    ],
    ids=lambda parts: "_".join(part["name"] for part in parts.values()),
)
def test_short_requests_do_not_wait_for_long_ones(heavy: Trace, parts: dict[str, dict[str, Any]]) -> None:
    """The last two know nothing of lengths: preemption takes from the long ones what room there is."""
    engine = EngineConfig(pages=5000, max_running=64)
    scarce = {"reservation": {"name": "none"}}
    first_come = latencies(heavy, engine, Arrivals.OPEN, **scarce).mean()
    assert latencies(heavy, engine, Arrivals.OPEN, **scarce, **parts).mean() < 0.8 * first_come

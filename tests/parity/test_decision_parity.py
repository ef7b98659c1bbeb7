"""Simulator, emulator and real server decide alike, step by step."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from harness.compose import compose
from harness.decisions import first_difference
from harness.experiment import load_trace, replay
from harness.record import RunRecord

pytest.importorskip("torch", reason="the real server needs the runtime extra")

SMALL = (
    "model=tiny",
    "hardware=cpu",
    "workload=all_at_once",
    "trace=generated",
    "trace.generate.requests=90",
    "trace.generate.input.mean=200",
    "trace.generate.output.mean=24",
    "trace.generate.prefixes=3",
    "trace.generate.prefix_tokens.mean=150",
    "trace.cap_total_tokens=900",
    "engine.max_context=1024",
    "engine.max_running=16",
    "policy.batching.step_tokens=256",
)


def decide(backend: str, *overrides: str, **columns: npt.NDArray[Any]) -> RunRecord:
    config = compose([f"backend={backend}", *SMALL, *overrides])
    record = replay(config, load_trace(config.trace).with_columns(**columns), lambda _: True)
    assert record.failure is None
    assert record.complete
    return record


@pytest.mark.parametrize("policy", ["radix", "naive", "sglang", "vllm", "sarathi"])
def test_the_emulated_server_decides_as_the_simulator(policy: str) -> None:
    knobs = (f"policy={policy}", "engine.pages=2500", "backend.instant=true")
    simulated = decide("sim", *knobs[:2])
    emulated = decide("emulate", *knobs)
    assert first_difference(simulated, emulated) is None


@pytest.mark.parametrize("page_size", [1, 16])
def test_the_runtime_decides_as_the_simulator_under_pressure(page_size: int) -> None:
    knobs = ("policy=vllm", f"engine.page_size={page_size}", f"engine.pages={1500 // page_size}")
    simulated = decide("sim", *knobs)
    assert simulated.steps is not None
    assert simulated.steps["evicted_pages"].sum() > 0
    assert simulated.steps["preempted"].sum() > 0
    assert first_difference(simulated, decide("runtime", *knobs)) is None


def test_tensor_parallel_ranks_decide_as_the_simulator() -> None:
    knobs = ("policy=vllm", "engine.pages=1500", "tp=2")
    assert first_difference(decide("sim", *knobs), decide("runtime", *knobs)) is None


def test_without_overlap_too() -> None:
    knobs = ("policy=radix", "engine.pages=1500", "engine.overlap=false")
    assert first_difference(decide("sim", *knobs), decide("runtime", *knobs)) is None


@pytest.mark.parametrize(
    "parts",
    [
        ("policy/order=dlpm", "policy.order.quantum=500", "policy/reservation=past_future"),
        ("policy/order=least_slack", "policy/preemption=least_urgent", "policy/batching=slo_chunked"),
    ],
    ids=["tenants", "deadlines"],
)
def test_who_a_request_is_and_when_it_is_due_reaches_the_scheduler(parts: tuple[str, ...]) -> None:
    """Every policy alone is in test_every_policy; here tenants and deadlines pass through the processes."""
    rng = np.random.default_rng(0)
    who = {
        "client_id": rng.integers(0, 3, 90),
        "priority": rng.integers(0, 3, 90),
        "deadline_s": rng.uniform(1, 60, 90),
    }
    knobs = ("policy=vllm", "engine.pages=1500", *parts, "policy.batching.step_tokens=256")
    simulated = decide("sim", *knobs, **who)
    assert first_difference(simulated, decide("runtime", *knobs, **who)) is None
    assert first_difference(simulated, decide("sim", *knobs)) is not None


def test_a_difference_is_found_where_it_begins() -> None:
    first = decide("sim", "engine.pages=2500")
    for column in ("decode_tokens", "evicted_pages", "preempted"):
        other = copy.deepcopy(first)
        assert other.steps is not None
        changed = other.steps[column].copy()
        changed[17] += 1
        other.steps[column] = changed
        difference = first_difference(first, other)
        assert difference is not None
        assert (difference.step, difference.what) == (17, column)


def test_a_difference_in_who_ran_is_found() -> None:
    first = decide("sim", "engine.pages=2500")
    other = copy.deepcopy(first)
    assert other.decisions is not None
    ids = other.decisions.joined_ids.copy()
    ids[5] += 1000
    object.__setattr__(other.decisions, "joined_ids", ids)
    difference = first_difference(first, other)
    assert difference is not None
    assert difference.what == "joined_ids"
    offsets = other.decisions.joined_offsets
    assert offsets[difference.step] <= 5 < offsets[difference.step + 1]

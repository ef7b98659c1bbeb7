"""On recorded timing the core decides as the real server did, also with timed arrivals."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from harness.compose import compose
from harness.config import ExperimentConfig
from harness.decisions import first_difference
from harness.experiment import load_trace, replay
from harness.record import RunRecord
from harness.validate.errors import ValidationError
from harness.validate.recorded import replay_recorded
from harness.workload import Workload
from policies import build_policy

pytest.importorskip("torch", reason="the real server needs the runtime extra")

TIMED = (
    "model=tiny",
    "hardware=cpu",
    "backend=runtime",
    "trace=generated",
    "trace.generate.requests=80",
    "trace.generate.input.mean=200",
    "trace.generate.output.mean=24",
    "trace.generate.prefixes=3",
    "trace.generate.prefix_tokens.mean=150",
    "trace.generate.turns.mean=2",
    "trace.generate.think_s.mean=1",
    "trace.cap_total_tokens=900",
    "trace.rate=60",
    "engine.max_context=1024",
    "engine.max_running=12",
    "engine.pages=1500",
    "policy.batching.step_tokens=256",
)


def run(*overrides: str) -> tuple[ExperimentConfig, Workload, RunRecord]:
    config = compose([*TIMED, *overrides])
    trace = load_trace(config.trace)
    record = replay(config, trace, lambda _: True)
    assert record.complete
    return config, Workload.of(trace, **dataclasses.asdict(config.workload)), record


def again(config: ExperimentConfig, workload: Workload, record: RunRecord) -> RunRecord:
    policy = build_policy(config.policy)
    return replay_recorded(record, workload, policy, overlap=config.engine.overlap, vocab_size=259)


@pytest.mark.parametrize("policy", ["radix", "naive", "sglang", "vllm", "sarathi"])
def test_the_core_decides_as_the_real_server_did(policy: str) -> None:
    config, workload, record = run(f"policy={policy}")
    assert record.steps is not None
    idle = record.steps["gpu_wait_s"] > 0.002
    assert idle.any(), "timed arrivals leave gaps"
    assert first_difference(record, again(config, workload, record)) is None


def test_without_overlap_too() -> None:
    config, workload, record = run("policy=vllm", "engine.overlap=false")
    assert first_difference(record, again(config, workload, record)) is None


def test_another_order_of_arrival_is_found() -> None:
    config, workload, record = run("policy=radix", "trace.generate.requests=40")
    queued_s = record.requests["queued_s"]
    last = int(np.argmax(queued_s))
    queued_s[last] = queued_s.min()
    record.requests["tokenized_s"][last] = 0.0
    assert first_difference(record, again(config, workload, record)) is not None


def test_a_run_without_steps_is_refused() -> None:
    config = compose([*TIMED])
    workload = Workload.of(load_trace(config.trace), **dataclasses.asdict(config.workload))
    record = RunRecord({}, None, None, None, complete=True)
    with pytest.raises(ValidationError, match="no step table"):
        again(config, workload, record)


def test_a_run_that_tells_no_turns_is_refused() -> None:
    config, workload, _ = run("trace.generate.requests=2", "backend=sim")
    with pytest.raises(ValidationError, match="when its steps were planned"):
        again(config, workload, replay(config, workload.trace, lambda _: True))

"""Every built-in policy decides alike in the simulator and in front of the real engine, step by step.

The whole server is compared in test_decision_parity; here its scheduler drives the torch engine in this process, with
sequences as a worker makes them of messages, so that there is time for every policy of the registry.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the real engine needs the runtime extra")

from harness.backends.sim import server_model
from harness.compose import compose
from harness.simulator.simulation import ServerModel, Simulation
from harness.workload import Arrivals, Workload
from policies import build_policy
from policies.registry import PARTS
from runtime.engine.params import GREEDY
from runtime.messages import Opening, Tokenized, id_bytes
from runtime.scheduler import Batch, Scheduler, Sequence
from runtime.server.worker import sequence_of
from tests.tiny.serving import Server
from traces.generate import Distribution, SyntheticWorkload, generate
from traces.prompts import PromptMaker
from traces.schema import Trace

POLICIES = [(part, name) for part, room in PARTS.items() for name in room.builtin]
SIZES = {"page_size": 2, "pages": 115, "max_running": 8, "max_context": 250}
# Scarce memory and small chunks, so that every kind of decision is made often.
USUAL: dict[str, dict[str, Any]] = {
    "order": {"name": "fcfs"},
    "batching": {"name": "chunked", "step_tokens": 96},
    "reservation": {"name": "none"},
    "preemption": {"name": "newest"},
    "eviction": {"name": "lru"},
    "prediction": {"name": "noisy_oracle"},
}
# What a policy needs to matter in a small workload, where its defaults are for a large one.
SMALL: dict[str, dict[str, Any]] = {
    "dlpm": {"quantum": 200.0},
    "mlfq": {"prompt_weight": 0.1},
    "slo_chunked": {"step_tokens": 96, "min_tokens": 4, "tbt_s": 0.006, "context_token_s": 1e-6, "base_s": 0.005},
}
Log = list[tuple[Any, ...]]


@cache
def trace() -> Trace:
    """Sessions' and tenants' requests with shared prefixes, priorities and some deadlines; all come at once."""
    made = generate(
        SyntheticWorkload(
            requests=32,
            input=Distribution("lognormal", mean=20, cv=1.0, high=60),
            output=Distribution("lognormal", mean=12, cv=1.0, high=50),
            prefixes=4,
            prefix_tokens=Distribution("uniform", low=36, high=90),
        )
    )
    rng = np.random.default_rng(5)
    return made.with_columns(
        max_tokens=made.output_tokens + rng.integers(0, 30, len(made)),
        session_id=rng.integers(-1, 6, len(made)),
        client_id=rng.integers(-1, 3, len(made)),
        priority=rng.integers(0, 3, len(made)),
        deadline_s=rng.choice([np.nan, 20.0, 21.0, 22.0, 24.0], len(made)),
    )


def policy_config(part: str, name: str) -> dict[str, Any]:
    """The usual policy with one part of another name, and what makes that part matter."""
    parameters = SMALL.get(name, {})
    if part == "batching" and name != "slo_chunked":
        parameters = {"step_tokens": 96}
    config: dict[str, Any] = {**USUAL, part: {"name": name, **parameters}}
    if part == "order":
        config["preemption"] = {"name": "most_served"}  # whose rank has changed most when they are queued again
    if part == "prediction":
        config["order"] = {"name": "sjf"}
        config["reservation"] = {"name": "predicted"}
    return config


def watched(scheduler: Scheduler) -> Log:
    """A log of all that the scheduler decides from now on, pages included."""
    log: Log = []
    schedule, table = scheduler.schedule, scheduler.memory.table

    def noted(now: float) -> Batch | None:
        batch = schedule(now)
        if batch is not None:
            members = [*(chunk.sequence for chunk in batch.chunks), *batch.decodes]
            log.append(
                (
                    [(chunk.sequence.request_id, *chunk[1:]) for chunk in batch.chunks],
                    [sequence.request_id for sequence in batch.decodes],
                    batch.positions,
                    [sequence.request_id for sequence in batch.admitted],
                    [table[sequence.row, : sequence.held_pages].tolist() for sequence in members],
                    batch.snapshot,
                )
            )
        return batch

    scheduler.schedule = noted  # type: ignore[method-assign]
    return log


@cache
def simulated_server() -> ServerModel:
    engine = [f"engine.{name}={value}" for name, value in SIZES.items()]
    return server_model(compose(["model=tiny", "hardware=cpu", "backend.leap=false", *engine]))


def simulate(config: dict[str, Any]) -> Log:
    simulation = Simulation(Workload(trace(), Arrivals.ALL_AT_ONCE), simulated_server(), build_policy(config))
    log = watched(simulation.scheduler)
    assert simulation.run(lambda _: True)
    return log


def sequences(vocab_size: int) -> Iterator[Sequence]:
    """The trace as a worker takes it from its tokenizer, on a clock that does not begin at 0."""
    prompts, began_s = PromptMaker(trace(), vocab_size, 0), 1234.5
    for row in range(len(trace())):
        request = trace().request(row)
        yield sequence_of(
            Tokenized(
                Opening(request.request_id, "test", b"", [], text=False),
                id_bytes(prompts.prompt(request.row)),
                request.max_tokens,
                GREEDY,
                ignore_eos=True,
                foretold=id_bytes(prompts.output(request.row)),
                priority=request.priority,
                deadline_s=began_s + request.deadline_s,
                session_id=request.session_id,
                client_id=request.client_id,
                received_s=began_s,
                tokenized_s=began_s,
            ),
            frozenset(),
            longest=0,
        )


@cache
def tiny() -> dict[str, Any]:
    return {key: value for key, value in compose(["model=tiny"]).model.items() if key not in ("name", "path")}


def serve(config: dict[str, Any]) -> Log:
    server = Server(tiny(), policy=config, **SIZES)
    log = watched(server.scheduler)
    server.run(sequences(server.config.vocab_size))
    server.close()
    return log


@pytest.mark.parametrize(("part", "name"), POLICIES)
def test_the_engine_is_given_what_the_simulator_says(part: str, name: str) -> None:
    config = policy_config(part, name)
    simulated = simulate(config)
    assert serve(config) == simulated
    assert sum(len(step[3]) for step in simulated) == len(trace())


def test_without_a_prefix_cache_too() -> None:
    config = {**USUAL, "prefix_cache": False}
    assert serve(config) == simulate(config)


def test_the_workload_is_busy() -> None:
    snapshots = [step[-1] for step in simulate(USUAL)]
    assert sum(snapshot.evicted_pages for snapshot in snapshots) > 500
    assert sum(snapshot.preempted for snapshot in snapshots) > 10
    assert max(snapshot.waiting for snapshot in snapshots) > 20


@pytest.mark.parametrize("part", [part for part in PARTS if part != "eviction"])
def test_no_two_policies_decide_alike(part: str) -> None:
    """The parity above is not of policies that have nothing to decide."""
    decided = {name: repr(simulate(policy_config(part, name))) for name in PARTS[part].builtin}
    twins = [(a, b) for a in decided for b in decided if a < b and decided[a] == decided[b]]
    # All come before one has ended: there is no history yet.
    assert twins == ([("history", "max_tokens")] if part == "prediction" else [])

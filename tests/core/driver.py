"""Drives a scheduler through a scenario, checking after every call what must hold."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from policies import Policy, build_policy
from policies.batching import Batching, StepPlan
from policies.views import SchedulerView
from runtime.scheduler import Batch, RequestRejectedError, Scheduler, SchedulerConfig, Sequence, StepOutputs
from tests.core.audit import audit, audit_drained
from tests.core.engine import History, ShadowEngine, Ticket

BEFORE_SCHEDULE, AFTER_LAUNCH, AFTER_COMMIT = range(3)

PARTS: dict[str, dict[str, Any]] = {
    "order": {"name": "fcfs"},
    "batching": {"name": "prefill_first", "step_tokens": 16},
    "reservation": {"name": "full"},
    "preemption": {"name": "newest"},
    "eviction": {"name": "lru"},
    "prediction": {"name": "max_tokens"},
}


@dataclass(frozen=True)
class Asked:
    """A request of a scenario.

    Attributes:
        tick: When it arrives.
        prompt: Token ids.
        max_tokens: As the client asks.
        foretold: Its output where a replay knows it, else the engine samples.
        stop_ids: Tokens that end it.
        priority: Larger is more urgent.
        deadline_s: When its last token is wanted, or NaN.
        session_id: Conversation, or -1.
        client_id: Tenant, or -1.
    """

    tick: int
    prompt: tuple[int, ...]
    max_tokens: int
    foretold: tuple[int, ...] | None = None
    stop_ids: frozenset[int] = frozenset()
    priority: int = 0
    deadline_s: float = float("nan")
    session_id: int = -1
    client_id: int = -1

    def sequence(self, request_id: int) -> Sequence:
        ids = np.array(self.prompt + (self.foretold or ()), np.int32)
        return Sequence(
            request_id,
            len(self.prompt),
            lambda: ids,
            self.max_tokens,
            foretold_tokens=None if self.foretold is None else len(self.foretold),
            stop_ids=self.stop_ids,
            priority=self.priority,
            deadline_s=self.deadline_s,
            session_id=self.session_id,
            client_id=self.client_id,
        )

    def output(self) -> list[int]:
        """The tokens that the client must get: up to and including the stop token, ``max_tokens`` at most."""
        history, output = History(self.prompt, self.foretold), list[int]()
        end = self.max_tokens if self.foretold is None else min(self.max_tokens, len(self.foretold))
        while len(output) < end:
            output.append(history.sample())
            if output[-1] in self.stop_ids:
                break
        return output

    def fits(self, config: SchedulerConfig) -> bool:
        """Whether a server of this size can run it; the KV of the last token is never needed."""
        longest = len(self.prompt) + self.max_tokens
        pages = -(-(longest - 1) // config.page_size)
        well_formed = len(self.prompt) >= 1 and self.max_tokens >= 1
        return well_formed and longest <= config.max_context and pages <= config.pages


@dataclass(frozen=True)
class Abort:
    """A client goes away: request ``request_id`` at a phase of a tick, whatever it is doing, if it exists."""

    tick: int
    phase: int
    request_id: int


@dataclass(frozen=True)
class Scenario:
    """Requests, with the index as id; the server; and what happens when.

    Attributes:
        config: Sizes.
        parts: Configuration of the policy's parts, where it differs from :data:`PARTS`; ``prefix_cache`` too.
        asked: Requests.
        aborts: Aborts.
        in_flight: Whether a step is left in flight at the end of a tick, in turn.
        foretold_only: Whether all outputs are foretold and the engine's tokens are never asked for.
    """

    config: SchedulerConfig
    parts: Mapping[str, Any]
    asked: tuple[Asked, ...]
    aborts: tuple[Abort, ...] = ()
    in_flight: tuple[bool, ...] = (True,)
    foretold_only: bool = False

    def scheduler(self) -> Scheduler:
        return Scheduler(self.config, self.policy())

    def policy(self) -> Policy:
        return build_policy({**PARTS, **self.parts})


@dataclass
class Record:
    """What came of it.

    Attributes:
        steps: Each step's decisions, comparable.
        outputs: Tokens that each request got (zeros where they were not asked for).
        reasons: How each request ended.
        refused: Requests that were rejected.
        preemptions: Of all requests together.
    """

    steps: list[tuple[Any, ...]] = field(default_factory=list)
    outputs: dict[int, list[int]] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=dict)
    refused: list[int] = field(default_factory=list)
    preemptions: int = 0


class _WatchedBatching(Batching):
    """Remembers the plans that it offered."""

    def __init__(self, inner: Batching) -> None:
        self.inner, self.step_tokens = inner, inner.step_tokens
        self.steady, self.fixed_budget = inner.steady, inner.fixed_budget
        self.offered: tuple[StepPlan, ...] = ()

    def plan(self, scheduler: SchedulerView, now: float) -> tuple[StepPlan, ...]:
        self.offered = self.inner.plan(scheduler, now)
        return self.offered


class Driver:
    """One run of a scenario."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        policy = scenario.policy()
        self.batching = _WatchedBatching(policy.batching)
        self.scheduler = Scheduler(scenario.config, replace(policy, batching=self.batching))
        self.engine = ShadowEngine(self.scheduler)
        self.flying: list[Ticket] = []
        self.record = Record()
        self.live: dict[int, Sequence] = {}
        self.sampled: Counter[int] = Counter()
        self.chunks: Counter[int] = Counter()
        self.computed: Counter[int] = Counter()  # tokens, as often as they were
        self._arrivals: dict[int, list[int]] = {}
        for request_id, asked in enumerate(scenario.asked):
            self._arrivals.setdefault(asked.tick, []).append(request_id)
        self._aborts: dict[tuple[int, int], list[int]] = {}
        for abort in scenario.aborts:
            self._aborts.setdefault((abort.tick, abort.phase), []).append(abort.request_id)

    def run(self) -> Record:
        """Tick until everything has ended."""
        work = sum(len(asked.prompt) + max(asked.max_tokens, 0) for asked in self.scenario.asked)
        last = max([*self._arrivals, *(tick for tick, _ in self._aborts)], default=0)
        bound = last + 20 * work + 50
        tick = 0
        while tick <= last or self.live or self.flying:
            assert tick < bound, f"after {tick} ticks these have not ended: {list(self.live.values())}"
            self.tick(tick)
            tick += 1
        audit_drained(self.scheduler)
        return self.record

    def tick(self, tick: int) -> None:
        for request_id in self._arrivals.get(tick, ()):
            self.arrive(request_id, tick / 10)
        self._abort_all(tick, BEFORE_SCHEDULE)
        batch = self.scheduler.schedule(tick / 10)
        self._check()
        if batch is not None:
            self._check_batch(batch)
            self.flying.append(self.engine.launch(batch))
        elif not self.flying:
            assert not self.live, f"nothing is in flight, and nothing is scheduled for {list(self.live.values())}"
        self._abort_all(tick, AFTER_LAUNCH)
        pattern = self.scenario.in_flight
        keep = 1 if batch is not None and pattern[tick % len(pattern)] else 0
        while len(self.flying) > keep:
            self._commit(tick / 10)
        self._abort_all(tick, AFTER_COMMIT)

    def arrive(self, request_id: int, now: float) -> None:
        asked = self.scenario.asked[request_id]
        sequence = asked.sequence(request_id)
        before = self.scheduler.waiting_sequences
        if not asked.fits(self.scenario.config):
            with pytest.raises(RequestRejectedError, match=f"request {request_id}: "):
                self.scheduler.add(sequence, now)
            assert self.scheduler.waiting_sequences == before
            self.record.refused.append(request_id)
        else:
            self.engine.histories[request_id] = History(asked.prompt, asked.foretold)
            self.scheduler.add(sequence, now)
            self.live[request_id] = sequence
            with pytest.raises(RequestRejectedError, match="already being served"):
                self.scheduler.add(asked.sequence(request_id), now)
            assert self.scheduler.waiting_sequences == before + 1
        self._check()

    def _abort_all(self, tick: int, phase: int) -> None:
        for request_id in self._aborts.get((tick, phase), ()):
            aborted = self.scheduler.abort(request_id)
            assert aborted is self.live.get(request_id), "only what has not ended can be aborted"
            if aborted is not None:
                self._end(aborted, "abort")
            self._check()

    def _commit(self, now: float) -> None:
        ticket = self.flying.pop(0)
        tokens = self.engine.execute(ticket)
        outputs = self.scheduler.commit(ticket.batch, None if self.scenario.foretold_only else tokens, now)
        self._take(ticket.batch, outputs)
        self._check()

    def _take(self, batch: Batch, outputs: StepOutputs) -> None:
        assert outputs.step == batch.step
        prompted = [chunk.sequence for chunk in batch.chunks if chunk.samples]
        assert all(sequence in prompted for sequence in outputs.sequences[: outputs.prefilled])
        assert all(sequence in batch.decodes for sequence in outputs.sequences[outputs.prefilled :])
        assert len(set(map(id, outputs.sequences))) == len(outputs.sequences)
        tokens = outputs.tokens or [0] * len(outputs.sequences)
        for sequence, token in zip(outputs.sequences, tokens, strict=True):
            assert sequence.request_id in self.live, f"{sequence} ended before"
            got = self.record.outputs.setdefault(sequence.request_id, [])
            got.append(token)
            assert len(got) == sequence.output_tokens
        for sequence in outputs.finished:
            asked, got = self.scenario.asked[sequence.request_id], self.record.outputs[sequence.request_id]
            expected = asked.output()
            assert len(got) == len(expected)
            assert outputs.tokens is None or got == expected
            stopped = outputs.tokens is not None and got[-1] in sequence.stop_ids
            reason = "stop" if stopped or len(expected) < asked.max_tokens else "length"
            assert sequence.finish_reason == reason
            self._end(sequence, reason)

    def _end(self, sequence: Sequence, reason: str) -> None:
        request_id = sequence.request_id
        del self.live[request_id]  # a KeyError is a second end
        assert sequence.finish_reason == reason
        self.record.reasons[request_id] = reason
        self.record.preemptions += sequence.preemptions
        assert sequence.chunks == self.chunks[request_id]
        assert 0 <= sequence.hit_tokens < sequence.prompt_tokens
        if reason != "abort":
            needed = sequence.computed - sequence.hit_tokens + sequence.recomputed_tokens
            assert self.computed[request_id] <= needed  # less where another brought more, meanwhile, than was evicted
            assert sequence.preemptions or self.computed[request_id] == needed
        assert sequence.preemptions or not sequence.recomputed_tokens
        surplus = self.sampled[request_id] - sequence.output_tokens
        assert 0 <= surplus <= len(self.flying) + 1

    def _check(self) -> None:
        audit(self.scheduler)
        self.engine.forget_free_pages()
        self.engine.check_cache()
        for ticket in self.flying:
            self.engine.check(ticket)
        assert [sequence.request_id for sequence in self.scheduler.unfinished()] == list(self.live)

    def _check_batch(self, batch: Batch) -> None:
        decodes, tokens = len(batch.decodes), sum(chunk.tokens for chunk in batch.chunks)
        assert decodes + tokens > 0
        assert any(
            tokens + (decodes if plan.shared else 0) <= plan.prefill_tokens and (plan.decode or not decodes)
            for plan in self.batching.offered
            if tokens or plan.decode
        ) or (not tokens and any(plan.decode and not plan.shared for plan in self.batching.offered))
        members = [chunk.sequence for chunk in batch.chunks] + batch.decodes
        assert len({sequence.row for sequence in members}) == len(members) <= self.scenario.config.max_running
        for chunk in batch.chunks:
            assert chunk.tokens > 0
            assert chunk.sequence.computed == chunk.start + chunk.tokens
            self.chunks[chunk.sequence.request_id] += 1
            self.computed[chunk.sequence.request_id] += chunk.tokens
        self.computed.update(sequence.request_id for sequence in batch.decodes)
        for sequence in batch.sampled():
            self.sampled[sequence.request_id] += 1
        self.record.steps.append(self._decision(batch))

    def _decision(self, batch: Batch) -> tuple[Any, ...]:
        """All that ranks must agree on, pages included."""
        table = self.scheduler.memory.table
        return (
            [(chunk.sequence.request_id, *chunk[1:]) for chunk in batch.chunks],
            [
                (sequence.request_id, position)
                for sequence, position in zip(batch.decodes, batch.positions, strict=True)
            ],
            [sequence.request_id for sequence in batch.admitted],
            [
                (sequence.row, table[sequence.row, : sequence.held_pages].tolist())
                for sequence in [*(chunk.sequence for chunk in batch.chunks), *batch.decodes]
            ],
            batch.snapshot,
        )


def drive(scenario: Scenario) -> Record:
    """Run a scenario to its end, with every check."""
    return Driver(scenario).run()

"""When decode steps may be leapt over: only while a step planned now would be the same as the last."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from policies.batching import Batching, StepPlan
from policies.views import SchedulerView
from runtime.scheduler import Batch, LeapingScheduler, SchedulerConfig, Sequence
from tests.core.driver import Scenario

LONG = 100


def sequence(request_id: int, prompt_tokens: int = 4, output_tokens: int = LONG) -> Sequence:
    ids = np.full(prompt_tokens + output_tokens, request_id, np.int32)
    return Sequence(request_id, prompt_tokens, ids, output_tokens, foretold_tokens=output_tokens)


def decoding(
    *sequences: Sequence, pages: int = 300, max_running: int = 4, **parts: Any
) -> tuple[LeapingScheduler, Batch]:
    """A scheduler that has decoded its first step and committed it, and that step."""
    config = SchedulerConfig(pages, page_size=1, max_running=max_running, max_context=1000)
    scheduler = LeapingScheduler(config, Scenario(config, parts, ()).policy())
    for each in sequences:
        scheduler.add(each, 0.0)
    while True:
        batch = scheduler.schedule(0.0)
        assert batch is not None
        scheduler.commit(batch, None, 0.0)
        if batch.decodes:
            return scheduler, batch


def quiet(scheduler: LeapingScheduler, in_flight: Batch | None = None) -> int:
    """How many steps ahead need no decision; where there are none, the scheduler is as it was."""
    before = (scheduler._snapshot(), [(each.computed, each.held_pages) for each in scheduler.unfinished()])
    ahead = scheduler.look_ahead(0.0, in_flight)
    if ahead is not None:
        return ahead.steps
    assert before == (scheduler._snapshot(), [(each.computed, each.held_pages) for each in scheduler.unfinished()])
    return 0


def test_up_to_the_step_before_the_first_ends() -> None:
    scheduler, _ = decoding(sequence(0), sequence(1, output_tokens=50))
    assert quiet(scheduler) == 50 - 2 - 1


@pytest.mark.parametrize("parts", [{}, {"order": {"name": "lpm"}}])
def test_not_when_someone_arrived_whom_there_is_room_for(parts: dict[str, Any]) -> None:
    scheduler, _ = decoding(sequence(0), **parts)
    scheduler.add(sequence(1), 0.0)
    assert quiet(scheduler) == 0


@pytest.mark.parametrize("parts", [{}, {"order": {"name": "lpm"}}])
def test_while_all_rows_are_taken(parts: dict[str, Any]) -> None:
    scheduler, _ = decoding(sequence(0), sequence(1), max_running=1, **parts)
    assert scheduler.waiting_sequences == 1
    assert quiet(scheduler) == LONG - 2 - 1


def test_while_the_next_does_not_fit_and_its_rank_is_fixed() -> None:
    waiting = (sequence(1, 250, 20), sequence(2))
    scheduler, _ = decoding(sequence(0), *waiting)
    assert quiet(scheduler) == LONG - 2 - 1
    scheduler, _ = decoding(sequence(0), *waiting, order={"name": "lpm"})
    assert quiet(scheduler) == 0
    scheduler, _ = decoding(sequence(0), *waiting, reservation={"name": "ratio"})
    assert quiet(scheduler) == 0, "what is kept for others decays"


def test_not_when_a_smaller_budget_may_let_the_next_in() -> None:
    waiting = (sequence(1, 250, 20), sequence(2))
    slo = {"name": "slo_chunked", "base_s": 0.0}
    scheduler, _ = decoding(sequence(0), *waiting, batching=slo)
    assert quiet(scheduler) == 0
    scheduler, _ = decoding(sequence(0), batching=slo)
    assert quiet(scheduler) == LONG - 2 - 1, "no one waits"
    scheduler, _ = decoding(sequence(0), sequence(1), max_running=1, batching=slo)
    assert quiet(scheduler) == LONG - 2 - 1, "all rows are taken"


def test_not_when_the_next_fits_once_others_are_nearer_to_their_ends() -> None:
    scheduler, _ = decoding(sequence(0), sequence(1, 250, 20), pages=280, reservation={"name": "past_future"})
    assert quiet(scheduler) == 0


def test_not_when_the_one_that_did_not_fit_has_gone() -> None:
    scheduler, _ = decoding(sequence(0), sequence(1, 250, 20), sequence(2))
    scheduler.abort(1)
    assert quiet(scheduler) == 0


def test_not_when_a_policy_has_a_memory() -> None:
    bounded = {"name": "prefill_first", "max_prefill_steps": 2}
    scheduler, _ = decoding(sequence(0), batching=bounded)
    assert quiet(scheduler) == 0


def test_not_when_a_sequence_is_leaving() -> None:
    for aborted, steps in ((None, LONG - 3), (1, 0)):
        scheduler, _ = decoding(sequence(0), sequence(1))
        batch = scheduler.schedule(0.0)
        assert batch is not None
        if aborted is not None:
            scheduler.abort(aborted)
        assert quiet(scheduler, batch) == steps


def test_no_further_than_kv_memory_goes() -> None:
    scheduler, _ = decoding(sequence(0), pages=LONG + 3)
    available = scheduler.available_pages
    assert 1 < quiet(scheduler) <= available


def test_not_when_a_prompt_was_just_cached_that_one_waiting_may_share() -> None:
    config = SchedulerConfig(pages=104, page_size=1, max_running=4, max_context=1000)
    scheduler = LeapingScheduler(config, Scenario(config, {}, ()).policy())
    scheduler.add(sequence(0), 0.0)
    scheduler.add(sequence(1), 0.0)
    prefill = scheduler.schedule(0.0)
    assert prefill is not None
    assert quiet(scheduler, prefill) == 0, "it will be, with the step in flight"
    decode = scheduler.schedule(0.0)
    assert decode is not None
    scheduler.commit(prefill, None, 0.0)
    assert quiet(scheduler, decode) == 0


def test_not_when_a_row_came_back_with_the_last_commit() -> None:
    """It finished with a step in flight, which kept its row while the next step was planned."""
    config = SchedulerConfig(pages=900, page_size=1, max_running=2, max_context=1000)
    scheduler = LeapingScheduler(config, Scenario(config, {}, ()).policy())
    stopping = sequence(1)
    stopping.end_tokens = 2
    for each in (sequence(0), stopping, sequence(2)):
        scheduler.add(each, 0.0)
    flying = [scheduler.schedule(0.0)]
    while stopping.row >= 0 or stopping.finish_reason is None:
        flying.append(scheduler.schedule(0.0))
        committed = flying.pop(0)
        assert committed is not None
        scheduler.commit(committed, None, 0.0)
    last = flying[0]
    assert last is not None
    assert [each.request_id for each in last.decodes] == [0]
    assert quiet(scheduler, last) == 0


@pytest.mark.parametrize("steps", [1, 2, 50])
@pytest.mark.parametrize("overlap", [True, False])
def test_a_leap_leaves_what_single_steps_would(overlap: bool, steps: int) -> None:
    """Lengths, pages and what the reservation has learnt of time passing."""
    ratio = {"name": "ratio", "decay_steps": 60}
    config = SchedulerConfig(300, page_size=8, max_running=4, max_context=1000)
    leapt, stepped = (LeapingScheduler(config, Scenario(config, {"reservation": ratio}, ()).policy()) for _ in range(2))
    flying: list[Batch] = []
    for scheduler in (leapt, stepped):
        for each in (sequence(0, 5), sequence(1, 9)):
            scheduler.add(each, 0.0)
        prefill = scheduler.schedule(0.0)
        assert prefill is not None
        flying.append(prefill)
        if not overlap:
            scheduler.commit(prefill, None, 0.0)

    ahead = leapt.look_ahead(0.0, flying[0] if overlap else None)
    assert ahead is not None
    if overlap:
        leapt.commit(flying[0], None, 0.0)
    run = leapt.leap(ahead, steps)

    last = flying[1]
    for _ in range(steps):
        step = stepped.schedule(0.0)
        assert step is not None
        stepped.commit(last if overlap else step, None, 0.0)
        last = step
    assert (run.batch.step, run.batch.positions) == (last.step, last.positions)
    assert run.batch.snapshot == last.snapshot
    assert len(run.new_pages) == steps - 1
    for one, other in zip(leapt.unfinished(), stepped.unfinished(), strict=True):
        assert (one.computed, one.total, one.output_tokens) == (other.computed, other.total, other.output_tokens)
        assert (one.held_pages, one.last_step) == (other.held_pages, other.last_step)
    assert leapt.memory.pool.free == stepped.memory.pool.free
    asked = sequence(9)
    assert leapt.policy.reservation.tokens(asked) == stepped.policy.reservation.tokens(asked)


class Shared(Batching):
    """A budget that decoding sequences share."""

    def __init__(self) -> None:
        self.step_tokens = 8

    def plan(self, scheduler: SchedulerView, now: float) -> tuple[StepPlan, ...]:
        del scheduler, now
        return (StepPlan(self.step_tokens, decode=True, shared=True),)


@pytest.mark.parametrize(("budget", "steps"), [(1, 0), (2, LONG - 2 - 1)])
def test_not_when_the_budget_is_too_small_for_all(budget: int, steps: int) -> None:
    batching = Shared()
    config = SchedulerConfig(300, page_size=1, max_running=4, max_context=1000)
    scheduler = LeapingScheduler(config, replace(Scenario(config, {}, ()).policy(), batching=batching))
    for each in (sequence(0), sequence(1)):
        scheduler.add(each, 0.0)
    for _ in range(2):
        batch = scheduler.schedule(0.0)
        assert batch is not None
        scheduler.commit(batch, None, 0.0)
    batching.step_tokens = budget
    assert quiet(scheduler) == steps


def test_the_queue_is_not_arranged_while_all_rows_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """An order with a memory would see other steps when they are leapt over; and matching a queue is dear."""
    scheduler, _ = decoding(sequence(0), sequence(1), max_running=1, order={"name": "lpm"})
    monkeypatch.delattr("policies.order.PrefixOrder.arrange")
    assert scheduler.schedule(0.0) is not None

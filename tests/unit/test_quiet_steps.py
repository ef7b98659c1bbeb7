"""When decode steps may be leapt over: only while a step planned now would be the same as the last."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

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


def test_up_to_the_step_before_the_first_ends() -> None:
    scheduler, batch = decoding(sequence(0), sequence(1, output_tokens=50))
    assert scheduler.quiet_steps(batch) == 50 - 2 - 1


@pytest.mark.parametrize("parts", [{}, {"order": {"name": "lpm"}}])
def test_not_when_someone_arrived_whom_there_is_room_for(parts: dict[str, Any]) -> None:
    scheduler, batch = decoding(sequence(0), **parts)
    scheduler.add(sequence(1), 0.0)
    assert scheduler.quiet_steps(batch) == 0


@pytest.mark.parametrize("parts", [{}, {"order": {"name": "lpm"}}])
def test_while_all_rows_are_taken(parts: dict[str, Any]) -> None:
    scheduler, batch = decoding(sequence(0), sequence(1), max_running=1, **parts)
    assert scheduler.waiting_sequences == 1
    assert scheduler.quiet_steps(batch) == LONG - 2 - 1


def test_while_the_next_does_not_fit_and_its_rank_is_fixed() -> None:
    waiting = (sequence(1, 250, 20), sequence(2))
    scheduler, batch = decoding(sequence(0), *waiting)
    assert scheduler.quiet_steps(batch) == LONG - 2 - 1
    scheduler, batch = decoding(sequence(0), *waiting, order={"name": "lpm"})
    assert scheduler.quiet_steps(batch) == 0
    scheduler, batch = decoding(sequence(0), *waiting, reservation={"name": "ratio"})
    assert scheduler.quiet_steps(batch) == 0, "what is kept for others decays"


def test_not_when_a_smaller_budget_may_let_the_next_in() -> None:
    waiting = (sequence(1, 250, 20), sequence(2))
    slo = {"name": "slo_chunked", "base_s": 0.0}
    scheduler, batch = decoding(sequence(0), *waiting, batching=slo)
    assert scheduler.quiet_steps(batch) == 0
    scheduler, batch = decoding(sequence(0), batching=slo)
    assert scheduler.quiet_steps(batch) == LONG - 2 - 1, "no one waits"
    scheduler, batch = decoding(sequence(0), sequence(1), max_running=1, batching=slo)
    assert scheduler.quiet_steps(batch) == LONG - 2 - 1, "all rows are taken"


def test_not_when_the_next_fits_once_others_are_nearer_to_their_ends() -> None:
    scheduler, batch = decoding(sequence(0), sequence(1, 250, 20), pages=280, reservation={"name": "past_future"})
    assert scheduler.quiet_steps(batch) == 0


def test_not_when_the_one_that_did_not_fit_has_gone() -> None:
    scheduler, batch = decoding(sequence(0), sequence(1, 250, 20), sequence(2))
    scheduler.abort(1)
    assert scheduler.quiet_steps(batch) == 0


def test_not_when_a_policy_has_a_memory() -> None:
    bounded = {"name": "prefill_first", "max_prefill_steps": 2}
    scheduler, batch = decoding(sequence(0), batching=bounded)
    assert scheduler.quiet_steps(batch) == 0


def test_not_when_a_sequence_is_leaving() -> None:
    scheduler, _ = decoding(sequence(0), sequence(1))
    batch = scheduler.schedule(0.0)
    assert batch is not None
    assert scheduler.quiet_steps(batch) == LONG - 3
    scheduler.abort(1)
    assert scheduler.quiet_steps(batch) == 0


def test_no_further_than_kv_memory_goes() -> None:
    scheduler, batch = decoding(sequence(0), pages=LONG + 3)
    steps = scheduler.quiet_steps(batch)
    assert 0 < steps <= scheduler.available_pages


def test_not_when_a_prompt_was_just_cached_that_one_waiting_may_share() -> None:
    config = SchedulerConfig(pages=104, page_size=1, max_running=4, max_context=1000)
    scheduler = LeapingScheduler(config, Scenario(config, {}, ()).policy())
    scheduler.add(sequence(0), 0.0)
    scheduler.add(sequence(1), 0.0)
    prefill, decode = scheduler.schedule(0.0), scheduler.schedule(0.0)
    assert prefill is not None
    assert decode is not None
    scheduler.commit(prefill, None, 0.0)
    assert scheduler.quiet_steps(decode) == 0


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
    assert scheduler.quiet_steps(last) == 0


def test_a_leap_leaves_what_single_steps_would() -> None:
    """Lengths, pages and what the reservation has learnt of time passing."""
    ratio = {"name": "ratio", "decay_steps": 60}
    leapt, batch = decoding(sequence(0), sequence(1), reservation=ratio)
    stepped, _ = decoding(sequence(0), sequence(1), reservation=ratio)
    run = leapt.leap(batch, 50)
    for _ in range(50):
        step = stepped.schedule(0.0)
        assert step is not None
        stepped.commit(step, None, 0.0)
        last = step
    assert (run.batch.step, run.batch.positions) == (last.step, last.positions)
    for one, other in zip(leapt.unfinished(), stepped.unfinished(), strict=True):
        assert (one.computed, one.total, one.output_tokens) == (other.computed, other.total, other.output_tokens)
        assert one.held_pages == other.held_pages
    assert leapt.memory.pool.free == stepped.memory.pool.free
    asked = sequence(9)
    assert leapt.policy.reservation.tokens(asked) == stepped.policy.reservation.tokens(asked)


def test_the_queue_is_not_arranged_while_all_rows_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """An order with a memory would see other steps when they are leapt over; and matching a queue is dear."""
    scheduler, _ = decoding(sequence(0), sequence(1), max_running=1, order={"name": "lpm"})
    monkeypatch.delattr("policies.order.PrefixOrder.arrange")
    assert scheduler.schedule(0.0) is not None

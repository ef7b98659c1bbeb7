"""The scheduler in the situations that other servers get wrong, one by one; the driver checks each call."""

from __future__ import annotations

import numpy as np
import pytest

from runtime.scheduler import RequestRejectedError, Scheduler, SchedulerConfig, Sequence, State
from tests.core.driver import AFTER_COMMIT, AFTER_LAUNCH, BEFORE_SCHEDULE, Abort, Asked, Driver, Scenario, drive

ROOMY = SchedulerConfig(pages=64, page_size=4, max_running=4, max_context=64)
NEVER = frozenset({99})


def scenario(*asked: Asked, config: SchedulerConfig = ROOMY, in_flight: bool = True, **parts: object) -> Scenario:
    return Scenario(config, parts, asked, in_flight=(in_flight,))


@pytest.mark.parametrize("in_flight", [True, False])
@pytest.mark.parametrize("max_tokens", [1, 2, 7])
def test_a_client_gets_max_tokens_and_not_one_less(in_flight: bool, max_tokens: int) -> None:
    record = drive(scenario(Asked(0, (1, 2, 3), max_tokens, stop_ids=NEVER), in_flight=in_flight))
    assert len(record.outputs[0]) == max_tokens
    assert record.reasons == {0: "length"}
    assert len(record.steps) == max_tokens, "and nothing beyond is computed"


@pytest.mark.parametrize("in_flight", [True, False])
def test_a_stop_token_is_the_last(in_flight: bool) -> None:
    asked = Asked(0, (1, 2, 3), 30)
    stop = asked.output()[4]
    first = asked.output().index(stop)
    record = drive(scenario(Asked(0, (1, 2, 3), 30, stop_ids=frozenset({stop})), in_flight=in_flight))
    assert record.outputs[0] == asked.output()[: first + 1]
    assert record.reasons == {0: "stop"}
    assert len(record.steps) == first + 1 + in_flight, "a step in flight was surplus"


def test_a_stop_token_ends_a_request_also_where_its_length_would() -> None:
    asked = Asked(0, (1, 2, 3), 30)
    stop = asked.output()[4]
    tokens = asked.output().index(stop) + 1
    record = drive(scenario(Asked(0, (1, 2, 3), tokens, stop_ids=frozenset({stop}))))
    assert record.reasons == {0: "stop"}


@pytest.mark.parametrize("page_size", [1, 4])
def test_equal_prompts_in_flight_share_from_the_second_chunk_of_neither(page_size: int) -> None:
    """Both compute the prompt; the cache keeps one copy, and each reads its own pages to its end."""
    prompt = (0, 1, 2, 3, 0, 1, 2, 3)
    config = SchedulerConfig(64, page_size, 4, 64)
    twins = scenario(Asked(0, prompt, 5), Asked(0, prompt, 5), config=config)
    driver = Driver(twins)
    driver.tick(0)
    driver.tick(1)
    first, second = driver.live.values()
    assert (first.cached, second.cached) == (8, 0)
    rows = driver.scheduler.memory.table[[first.row, second.row], : 8 // page_size]
    assert not set(rows[0].tolist()) & set(rows[1].tolist())
    drive(twins)


def test_a_prompt_arriving_later_shares_the_chunks_computed_so_far() -> None:
    prompt = (0, 1, 2, 3) * 4
    chunked = {"name": "prefill_first", "step_tokens": 4}
    driver = Driver(scenario(Asked(0, prompt, 2), Asked(3, prompt, 2), batching=chunked))
    while driver.live or not driver.record.steps:
        driver.tick(len(driver.record.steps))
        if len(driver.live) == 2:
            second = driver.live[1]
    assert second.hit_tokens in (8, 12)


def test_the_last_token_of_a_cached_prompt_is_computed_again() -> None:
    """It has to be, to sample the next one; the page it goes to is the request's own."""
    prompt = (0, 1, 2, 3)
    for page_size in (1, 2, 4):
        config = SchedulerConfig(pages=-(-6 // page_size), page_size=page_size, max_running=1, max_context=64)
        record = drive(scenario(Asked(0, prompt, 3), Asked(9, prompt, 3), config=config))
        assert record.outputs[0] == record.outputs[1]


def test_the_row_of_a_finished_sequence_waits_for_the_step_in_flight() -> None:
    one_row = SchedulerConfig(64, 4, max_running=1, max_context=64)
    asked = Asked(0, (1, 2, 3), 30)
    stop = frozenset({asked.output()[0]})
    driver = Driver(scenario(Asked(0, (1, 2, 3), 30, stop_ids=stop), Asked(0, (2,), 3), config=one_row))
    driver.tick(0)  # launches the prefill
    driver.tick(1)  # launches a decode, then sees the stop
    assert driver.record.reasons == {0: "stop"}
    assert driver.scheduler._leaving
    driver.tick(2)
    assert len(driver.record.steps) == 2, "no row is free before the surplus step is committed"
    driver.tick(3)
    assert len(driver.record.steps) == 3


@pytest.mark.parametrize("phase", [BEFORE_SCHEDULE, AFTER_LAUNCH, AFTER_COMMIT])
@pytest.mark.parametrize("tick", range(8))
@pytest.mark.parametrize("in_flight", [True, False])
def test_an_abort_at_any_moment_ends_one_request_and_no_other(tick: int, phase: int, in_flight: bool) -> None:
    prompt = (0, 1, 2, 3, 4, 0, 1, 2)
    config = SchedulerConfig(pages=20, page_size=1, max_running=2, max_context=64)
    asked = (Asked(0, prompt, 4), Asked(0, prompt, 4), Asked(2, prompt, 4))
    parts = {"batching": {"name": "prefill_first", "step_tokens": 3}}
    plan = Scenario(config, parts, asked, (Abort(tick, phase, 0), Abort(tick, phase, 0)), (in_flight,))
    record = drive(plan)
    assert record.reasons[0] in ("abort", "length")
    assert record.reasons[1] == record.reasons[2] == "length"


def test_aborting_who_is_not_there_is_nothing() -> None:
    scheduler = scenario().scheduler()
    assert scheduler.abort(7) is None


def test_an_aborted_preempted_sequence_does_not_come_back() -> None:
    """Preempted in flight, and aborted before its pages are given back."""

    class Aborting(Driver):
        def _abort_all(self, tick: int, phase: int) -> None:
            for victim in [s for s in self.live.values() if s.state is State.LEAVING and s.preemptions]:
                assert self.scheduler.abort(victim.request_id) is victim
                assert self.scheduler.abort(victim.request_id) is None
                self._end(victim, "abort")

    config = SchedulerConfig(pages=6, page_size=1, max_running=2, max_context=6)
    asked = (Asked(0, (0, 1), 4, stop_ids=NEVER), Asked(0, (2, 3), 4, stop_ids=NEVER))
    record = Aborting(Scenario(config, {"reservation": {"name": "none"}}, asked)).run()
    assert record.reasons == {0: "length", 1: "abort"}


@pytest.mark.parametrize(
    ("prompt_tokens", "max_tokens", "said"),
    [
        (0, 5, "request 3: the prompt is empty"),
        (4, -5, "request 3: max_tokens=-5: at least 1"),
        (4, 0, "request 3: max_tokens=0: at least 1"),
        (60, 5, "request 3: 60 prompt + 5 output tokens exceed the context of 64"),
        (40, 10, "request 3: 40 prompt + 10 output tokens need 13 pages of KV, the server has 12"),
    ],
)
def test_what_can_never_run_is_refused(prompt_tokens: int, max_tokens: int, said: str) -> None:
    scheduler = scenario(config=SchedulerConfig(12, 4, 4, 64)).scheduler()
    with pytest.raises(RequestRejectedError) as caught:
        scheduler.add(Sequence(3, prompt_tokens, np.zeros(prompt_tokens, np.int32), max_tokens), 0.0)
    assert str(caught.value) == said
    assert scheduler.unfinished() == []
    assert scheduler.schedule(0.0) is None


def test_what_just_fits_runs_to_its_end() -> None:
    """49 tokens in 12 pages of 4: the last one's KV is never needed."""
    asked = Asked(0, (1,) * 40, 9, stop_ids=NEVER)
    assert len(drive(scenario(asked, config=SchedulerConfig(12, 4, 4, 64))).outputs[0]) == 9


def test_steps_are_committed_in_order() -> None:
    driver = Driver(scenario(Asked(0, (1, 2), 9, stop_ids=NEVER)))
    driver.arrive(0, 0.0)
    first = driver.scheduler.schedule(0.0)
    second = driver.scheduler.schedule(0.0)
    assert first is not None
    assert second is not None
    with pytest.raises(ValueError, match="step 1 committed after step -1"):
        driver.scheduler.commit(second, [0], 0.0)
    driver.scheduler.commit(first, [0], 0.0)
    with pytest.raises(ValueError, match="step 0 committed after step 0"):
        driver.scheduler.commit(first, [0], 0.0)


def test_who_sits_out_for_want_of_pages_is_served_before_newcomers() -> None:
    """A victim's pages come back a step later: a newcomer that took them would be the next victim, for ever."""
    config = SchedulerConfig(pages=4, page_size=4, max_running=2, max_context=30)
    asked = (Asked(0, (0,) * 6, 4), Asked(0, (0, 0, 0, 1, 0, 0), 8), Asked(0, (0, 0), 1), Asked(0, (0, 0), 1))
    batching = {"name": "prefill_first", "step_tokens": 3, "max_prefill_steps": 1}
    drive(scenario(*asked, config=config, batching=batching, reservation={"name": "none"}))


def test_when_the_only_one_to_decode_was_preempted_others_go_on_at_once() -> None:
    """Nothing is in flight then: a step that is not planned now would never be."""
    config = SchedulerConfig(pages=3, page_size=4, max_running=2, max_context=30)
    lengths = {8: (10, 1), 7: (3, 3), 5: (1, 1), 4: (1, 1)}  # prompt: most output, output
    asked = [Asked(0, (0,) * prompt, most, foretold=(0,) * output) for prompt, (most, output) in lengths.items()]
    drive(
        scenario(
            *asked,
            config=config,
            in_flight=False,
            batching={"name": "decode_first", "step_tokens": 8},
            reservation={"name": "none"},
            preemption={"name": "oldest"},
        )
    )


def test_an_admission_leaves_whole_pages_for_everyone() -> None:
    """Each may grow to 9 tokens, 3 pages of 4: a third request has to wait for 9 pages."""
    for pages, admitted in ((8, 2), (9, 3)):
        config = SchedulerConfig(pages, page_size=4, max_running=4, max_context=64)
        asked = [Asked(0, (token,) * 4, 5, stop_ids=NEVER) for token in range(3)]
        record = drive(scenario(*asked, config=config))
        assert record.steps[0][2] == list(range(admitted))
        assert record.preemptions == 0


def test_sizes_are_positive() -> None:
    with pytest.raises(ValueError, match=r"engine\.max_running=0: at least 1"):
        SchedulerConfig(1, 1, 0, 1)


def test_a_scheduler_with_nothing_to_do_says_so() -> None:
    scheduler: Scheduler = scenario().scheduler()
    assert scheduler.schedule(0.0) is None

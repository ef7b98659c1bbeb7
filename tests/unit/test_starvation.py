"""Who makes progress while prompts keep coming, one or more to a step, for ever."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.scheduler import SchedulerConfig
from tests.core.driver import Asked, Driver, Scenario

STEPS = 120


def under_load(batching: dict[str, Any], **parts: Any) -> Driver:
    """Every tick brings a prompt of one step's budget, which asks for more tokens than a step gives."""
    asked = tuple(
        Asked(tick, tuple((tick * 7 + j) % 5 for j in range(8)), 6, priority=tick % 2) for tick in range(STEPS)
    )
    config = SchedulerConfig(pages=4000, page_size=1, max_running=STEPS, max_context=64)
    driver = Driver(Scenario(config, {"batching": {"step_tokens": 8, **batching}, **parts}, asked))
    for tick in range(STEPS):
        driver.tick(tick)
    return driver


def decoding(driver: Driver) -> list[bool]:
    """Of each step, whether it decoded."""
    return [bool(step[1]) for step in driver.record.steps]


def test_prefill_first_alone_starves_decoding() -> None:
    """What mini-sglang does: the bound is there because of this."""
    assert not any(decoding(under_load({"name": "prefill_first"})))


@pytest.mark.parametrize("bound", [1, 2, 5])
def test_prefill_first_with_a_bound_decodes_at_least_so_often(bound: int) -> None:
    steps = decoding(under_load({"name": "prefill_first", "max_prefill_steps": bound}))
    assert all(any(steps[i : i + bound + 1]) for i in range(1, STEPS - bound - 1))
    assert not all(steps), "prompts make progress too"


@pytest.mark.parametrize("name", ["chunked", "decode_first"])
def test_others_decode_what_they_have_admitted(name: str) -> None:
    assert sum(decoding(under_load({"name": name}))) > STEPS / 2


@pytest.mark.parametrize(
    "batching", [{"name": "prefill_first", "max_prefill_steps": 1}, {"name": "chunked"}, {"name": "decode_first"}]
)
@pytest.mark.parametrize("reservation", ["full", "none"])
@pytest.mark.parametrize("pages", [14, 40])
def test_first_come_first_served_ends_everyone_in_time(batching: dict[str, Any], reservation: str, pages: int) -> None:
    """Twice as much arrives as the server can do; the n-th request still ends after a time proportional to n."""
    asked = tuple(Asked(tick, tuple((tick * 7 + j) % 5 for j in range(8)), 6) for tick in range(STEPS))
    config = SchedulerConfig(pages, page_size=1, max_running=8, max_context=64)
    parts = {"batching": {"step_tokens": 8, **batching}, "reservation": {"name": reservation}}
    driver = Driver(Scenario(config, parts, asked))
    ended: dict[int, int] = {}
    for tick in range(40 * STEPS):
        driver.tick(tick)
        for request_id in driver.record.reasons:
            ended.setdefault(request_id, tick)
        if len(ended) == STEPS:
            break
    assert all(tick <= 30 * (request_id + 1) for request_id, tick in ended.items())
    assert len(ended) == STEPS


def waits_for_ever(order: dict[str, Any]) -> bool:
    """Whether one request is never admitted while others keep coming, faster than they are served.

    Most orders like the others better: they are short, of one cached prefix, urgent, and of one tenant.
    """
    unlucky = 9
    asked = [
        Asked(tick, (1, 2, 3, 4 + tick % 3), 2, foretold=(0, 0), priority=1, deadline_s=tick / 10, client_id=0)
        for tick in range(STEPS)
    ]
    asked[unlucky] = Asked(unlucky, (9,) * 7, 6, foretold=(0,) * 6, client_id=1)
    config = SchedulerConfig(pages=64, page_size=1, max_running=1, max_context=64)
    parts = {"batching": {"name": "chunked", "step_tokens": 8}, "prediction": {"name": "oracle"}, "order": order}
    driver = Driver(Scenario(config, parts, tuple(asked)))
    for tick in range(STEPS):
        driver.tick(tick)
    assert len(driver.record.reasons) > STEPS / 6, "others are served"
    return driver.chunks[unlucky] == 0


@pytest.mark.parametrize("name", ["lpm", "dfs_weight", "shortest_prefill_first"])
def test_orders_that_live_by_the_cache_alone_let_one_wait_for_ever(name: str) -> None:
    assert waits_for_ever({"name": name, "limit": 0})
    assert not waits_for_ever({"name": name, "limit": 8}), "SGLang's limit"


@pytest.mark.parametrize("name", ["sjf", "srpt", "priority", "edf", "least_slack"])
def test_so_do_those_that_look_at_the_request_alone(name: str) -> None:
    assert waits_for_ever({"name": name})


@pytest.mark.parametrize(
    "order",
    [
        {"name": "fcfs"},
        {"name": "k_lpm", "limit": 0},
        {"name": "vtc"},
        {"name": "dlpm", "quantum": 20.0, "limit": 0},
        {"name": "priority", "ageing_s": 2.0},
        {"name": "mlfq", "quantum": 0.5, "prompt_weight": 0.1, "promote_s": 2.0},
    ],
    ids=lambda order: order["name"],
)
def test_these_come_round_to_everyone(order: dict[str, Any]) -> None:
    assert not waits_for_ever(order)

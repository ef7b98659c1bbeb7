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

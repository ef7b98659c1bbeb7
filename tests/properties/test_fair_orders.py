"""What fair orders guarantee two tenants that always have something queued, and no other order does."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from runtime.scheduler import SchedulerConfig, State
from tests.core.driver import Asked, Driver, Scenario

KV, PROMPT, OUTPUT = 40, 10, 10
PREFILL_WEIGHT, DECODE_WEIGHT = 1.0, 2.0
# The papers' bound: the largest prompt, or all the output that KV holds at once.
BOUND = 2 * max(PREFILL_WEIGHT * PROMPT, DECODE_WEIGHT * KV)


@st.composite
def queues(draw: st.DrawFn) -> tuple[Asked, ...]:
    """Requests of two tenants, all there from the start, in any order."""
    prompts = st.lists(st.integers(0, 1), min_size=1, max_size=PROMPT).map(tuple)
    outputs = st.integers(1, OUTPUT).map(lambda count: (0,) * count)
    each = [
        [Asked(0, prompt, OUTPUT, foretold, client_id=tenant) for prompt, foretold in drawn]
        for tenant in (0, 1)
        for drawn in [draw(st.lists(st.tuples(prompts, outputs), min_size=10, max_size=40))]
    ]
    together = each[0] + each[1]
    return tuple(together if draw(st.booleans()) else draw(st.permutations(together)))


def drift(asked: tuple[Asked, ...], order: dict[str, Any], *, cached_is_free: bool) -> float:
    """The most that two tenants' service differs while both have something queued."""
    config = SchedulerConfig(pages=KV, page_size=1, max_running=6, max_context=KV)
    parts = {
        "order": order,
        "batching": {"name": "chunked", "step_tokens": 16},
        "reservation": {"name": "none"},
        "prefix_cache": cached_is_free,
    }
    driver = Driver(Scenario(config, parts, asked, foretold_only=True))
    driver.tick(0)
    everyone = dict(driver.live)
    most, tick = 0.0, 1
    while {0, 1} <= {s.client_id for s in everyone.values() if s.state is State.WAITING and not s.preemptions}:
        service = [0.0, 0.0]
        for s in everyone.values():
            if s.chunks:
                prefilled = s.prompt_tokens - s.hit_tokens
                service[s.client_id] += PREFILL_WEIGHT * prefilled + DECODE_WEIGHT * (s.total - s.prompt_tokens)
        most = max(most, abs(service[0] - service[1]))
        driver.tick(tick)
        tick += 1
    return most


@given(queues())
def test_vtc_keeps_two_backlogged_tenants_together(asked: tuple[Asked, ...]) -> None:
    assert drift(asked, {"name": "vtc"}, cached_is_free=False) <= BOUND


@given(queues(), st.sampled_from([1.0, 20.0, 100.0]))
def test_dlpm_does_within_its_quantum(asked: tuple[Asked, ...], quantum: float) -> None:
    order = {"name": "dlpm", "quantum": quantum}
    assert drift(asked, order, cached_is_free=True) <= BOUND + 2 * quantum


def test_first_come_first_served_keeps_no_such_bound() -> None:
    greedy = [Asked(0, (0,) * PROMPT, OUTPUT, (0,) * OUTPUT, client_id=0)] * 40
    modest = [Asked(0, (1,) * PROMPT, OUTPUT, (0,) * OUTPUT, client_id=1)] * 40
    assert drift((*greedy, *modest), {"name": "fcfs"}, cached_is_free=False) > 3 * BOUND
    assert drift((*greedy, *modest), {"name": "lpm"}, cached_is_free=True) > 3 * BOUND

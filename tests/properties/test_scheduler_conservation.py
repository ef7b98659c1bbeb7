"""The scheduler core under any trace, policy, page size and pool: nothing is lost, nobody reads what is not theirs.

The driver checks after every call: each page is in exactly one place, each lock has its readers, rows are distinct and
not retired in flight, ``cached <= computed <= total``; for each step: budgets, and that every token read was computed
from the very prefix that its reader has (a shadow pool); for each request: that it ends once, with exactly its tokens.
"""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.driver import Driver, Scenario, drive
from tests.core.scenarios import scenarios

_EXAMPLES = settings().max_examples


@settings(max_examples=4 * _EXAMPLES)
@given(scenarios())
def test_pages_tokens_and_ends_are_conserved(scenario: Scenario) -> None:
    record = drive(scenario)
    assert len(record.reasons) + len(record.refused) == len(scenario.asked)


@settings(max_examples=2 * _EXAMPLES)
@given(scenarios(reservation={"name": "none"}, prefix_cache=True, batching={"name": "chunked", "step_tokens": 8}))
def test_they_are_when_kv_runs_out_often(scenario: Scenario) -> None:
    drive(scenario)


@given(scenarios(reservation={"name": "full"}))
def test_a_full_reservation_never_preempts(scenario: Scenario) -> None:
    assert drive(scenario).preemptions == 0


@given(scenarios(order={"name": "fcfs"}))
def test_first_come_is_first_admitted(scenario: Scenario) -> None:
    admitted = [request_id for step in drive(scenario).steps for request_id in step[2]]
    assert admitted == sorted(admitted, key=lambda request_id: (scenario.asked[request_id].tick, request_id))


@given(scenarios(order={"name": "tests.core.own_policies.WatchfulOrder"}, reservation={"name": "none"}))
def test_orders_are_told_of_everyone_who_comes_and_goes(scenario: Scenario) -> None:
    driver = Driver(scenario)
    driver.run()
    assert driver.scheduler.policy.order.runs == {}  # type: ignore[union-attr]


@given(scenarios())
def test_two_ranks_decide_alike(scenario: Scenario) -> None:
    """Pages and rows too, as tensor-parallel ranks must."""
    assert drive(scenario) == drive(scenario)


@given(scenarios(), st.lists(st.booleans(), min_size=1, max_size=5).map(tuple))
def test_clients_get_the_same_tokens_with_or_without_a_step_in_flight(
    scenario: Scenario, in_flight: tuple[bool, ...]
) -> None:
    scenario = replace(scenario, aborts=())
    assert drive(scenario).outputs == drive(replace(scenario, in_flight=in_flight)).outputs

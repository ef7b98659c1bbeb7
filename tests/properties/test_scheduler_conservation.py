"""The scheduler core under any trace, policy, page size and pool: nothing is lost, nobody reads what is not theirs."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.core.driver import Scenario, drive
from tests.core.scenarios import scenarios


@given(scenarios())
def test_pages_tokens_and_ends_are_conserved(scenario: Scenario) -> None:
    """The driver checks after every call: pages, locks, rows, lengths, KV read, budgets, ends, tokens."""
    record = drive(scenario)
    assert set(record.reasons) | set(record.refused) == set(range(len(scenario.asked)))

"""The clocks of a GPU at its power limit: they fall under prefills, rise again behind them, and steps feel it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.cost.clocks import Clocks, PowerLimit

LIMIT = PowerLimit(settles_s=0.05, compute=0.18, memory=0.05, pause_s=0.02)
LONG_S = 1e3  # a pause behind which nothing is left
FULL = 4096  # prompt tokens, of which a GPU draws all the power that it is allowed

limits = st.builds(
    PowerLimit,
    settles_s=st.floats(0.01, 0.1),
    compute=st.floats(0.0, 0.5),
    memory=st.floats(0.0, 0.5),
    pause_s=st.floats(0.005, 0.1),
)
tokens = st.integers(1, 8192)
seconds = st.floats(1e-4, 0.3)


def in_a_row(clocks: Clocks, tokens: int, measured_s: float, steps: int, pause_s: float = 0.0) -> list[float]:
    """Seconds of the same step again and again."""
    at_s, took_s = 0.0, []
    for _ in range(steps):
        took_s.append(clocks.step_s(tokens, measured_s, at_s))
        at_s += took_s[-1] + pause_s
    return took_s


@given(limits, tokens, seconds)
def test_a_step_takes_what_was_measured_where_it_is_run_as_it_was_measured(
    limit: PowerLimit, tokens: int, measured_s: float
) -> None:
    took_s = in_a_row(Clocks(limit), tokens, measured_s, 300, limit.pause_s)
    assert took_s[-1] == pytest.approx(took_s[-2], rel=1e-6), "steady"
    assert took_s[-1] == pytest.approx(measured_s, rel=1e-6)


@given(limits, tokens, seconds)
def test_a_prefill_is_slower_behind_prefills_than_behind_a_pause(
    limit: PowerLimit, tokens: int, measured_s: float
) -> None:
    clocks = Clocks(limit)
    took_s = in_a_row(clocks, tokens, measured_s, 20)
    rested_s = clocks.step_s(tokens, measured_s, LONG_S)
    assert took_s[0] == rested_s
    rounding = 1e-12
    assert np.all(np.diff(took_s) >= -rounding)
    assert took_s[-1] - rested_s <= max(limit.compute, limit.memory) * measured_s + rounding
    assert rested_s <= measured_s + rounding
    late_s = in_a_row(clocks, tokens, measured_s, 500)[-1]
    assert late_s >= measured_s - rounding, "it was measured behind a pause"


def test_prefills_settle_at_compute_slower() -> None:
    """Short ones, measured behind long pauses: at full clocks."""
    measured_s = 1e-3
    took_s = in_a_row(Clocks(PowerLimit(0.05, 0.18, 0.05, pause_s=10.0)), FULL, measured_s, 1000)
    assert took_s[0] == measured_s
    assert took_s[-1] == pytest.approx(1.18 * measured_s, rel=0.01)
    nearer = [took - measured_s < 0.18 * (1 - math.exp(-1)) * measured_s for took in took_s]
    assert sum(took_s[: nearer.index(False)]) == pytest.approx(0.05, rel=0.1), "settles_s, to a third of the way"


@given(limits, tokens, seconds, st.floats(1e-3, 0.05))
def test_a_decode_behind_prefills_is_slower_at_first(
    limit: PowerLimit, tokens: int, measured_s: float, decode_s: float
) -> None:
    clocks = Clocks(limit)
    in_a_row(clocks, tokens, measured_s, 5)
    took_s = in_a_row(clocks, 0, decode_s, 1500)
    assert np.all(np.diff(took_s) <= 0)
    assert decode_s <= took_s[0] <= decode_s * (1 + limit.memory)
    assert took_s[-1] == decode_s, "not nearly"


def test_a_decode_just_behind_prefills_takes_memory_longer_and_fades_as_the_clocks_rise() -> None:
    clocks, measured_s = Clocks(LIMIT), 1e-3
    assert in_a_row(clocks, 0, measured_s, 3) == [measured_s] * 3, "at full clocks"
    in_a_row(clocks, FULL, 0.1, 20)
    took_s = in_a_row(clocks, 0, measured_s, 1000)
    assert took_s[0] == pytest.approx(1.05 * measured_s, rel=1e-2)
    assert took_s[50] - measured_s == pytest.approx((took_s[0] - measured_s) / math.e, rel=0.02), "settles_s later"
    assert measured_s < took_s[300] < took_s[200]
    assert took_s[400:] == [measured_s] * 600, "nothing that one would feel is left"


@pytest.mark.parametrize("behind", [0, FULL])
def test_fewer_prompt_tokens_load_less(behind: int) -> None:
    """What is behind them takes the less longer."""

    def behind_s(tokens: int) -> float:
        clocks = Clocks(LIMIT)
        took_s = in_a_row(clocks, tokens, 0.05, 3)
        return clocks.step_s(behind, 0.05, sum(took_s))

    took_s = [behind_s(tokens) for tokens in (1, 64, 256, 512, 1024)]
    assert np.all(np.diff(took_s) > 0)
    assert behind_s(1024) == behind_s(FULL)


@st.composite
def histories(draw: st.DrawFn) -> tuple[Clocks, Clocks, float]:
    """Two clocks that saw the same steps, and when the last of them ended."""
    limit = draw(limits)
    one, other, at_s = Clocks(limit), Clocks(limit), 0.0
    for tokens, measured_s, pause_s in draw(
        st.lists(st.tuples(st.integers(0, 4096), seconds, st.floats(0.0, 0.1)), max_size=6)
    ):
        took_s = one.step_s(tokens, measured_s, at_s)
        assert other.step_s(tokens, measured_s, at_s) == took_s
        at_s += took_s + pause_s
    return one, other, at_s


@given(histories(), st.lists(st.floats(1e-4, 0.05), min_size=1, max_size=200), st.data())
def test_decodes_foreseen_take_what_they_take_one_by_one(
    history: tuple[Clocks, Clocks, float], measured_s: list[float], data: st.DataObject
) -> None:
    """To the last bit, run in pieces too, and so does what follows."""
    foreseeing, stepping, at_s = history
    left = np.array(measured_s)
    while len(left):
        foreseen_s, behind = foreseeing.decodes_s(left)
        run = data.draw(st.integers(1, len(left)), label="so many of them are run")
        assert foreseen_s[:run].tolist() == [stepping.step_s(0, one_s, at_s) for one_s in left[:run].tolist()]
        if behind is not None:
            assert len(behind) == len(left)
            foreseeing.passed(behind.item(run - 1))
        left = left[run:]
    at_s += sum(measured_s)
    for tokens in (0, 512, 0):
        assert foreseeing.step_s(tokens, 0.02, at_s) == stepping.step_s(tokens, 0.02, at_s)


@pytest.mark.parametrize("piece", [1, 7, 150, 1000])
def test_decodes_are_foreseen_until_nothing_is_left_and_beyond(piece: int) -> None:
    foreseeing, stepping = Clocks(LIMIT), Clocks(LIMIT)
    for clocks in (foreseeing, stepping):
        in_a_row(clocks, FULL, 0.1, 3)
    measured_s, took_s = np.full(1000, 2e-3), []
    for first in range(0, 1000, piece):
        foreseen_s, behind = foreseeing.decodes_s(measured_s[first : first + piece])
        took_s += foreseen_s.tolist()
        if behind is not None:
            foreseeing.passed(behind.item(-1))
    assert took_s == [stepping.step_s(0, 2e-3, 0.0) for _ in range(1000)]
    assert took_s[100] > 2e-3
    assert took_s[-1] == 2e-3
    assert foreseeing.decodes_s(measured_s)[1] is None


def test_foreseen_decodes_are_not_run_yet() -> None:
    clocks = Clocks(LIMIT)
    in_a_row(clocks, FULL, 0.1, 3)
    first_s, _ = clocks.decodes_s(np.full(50, 2e-3))
    again_s, _ = clocks.decodes_s(np.full(50, 2e-3))
    assert first_s.tolist() == again_s.tolist()


@given(limits, st.lists(st.tuples(st.integers(0, 8192), seconds, st.floats(-1e-3, 1.0)), min_size=1, max_size=40))
def test_seconds_are_finite_and_positive(limit: PowerLimit, steps: list[tuple[int, float, float]]) -> None:
    """A recorded step may begin before the one before has ended, by what two clocks are apart."""
    clocks, at_s = Clocks(limit), 0.0
    most = 1 + max(limit.compute, limit.memory)
    for tokens, measured_s, pause_s in steps:
        took_s = clocks.step_s(tokens, measured_s, at_s)
        assert math.isfinite(took_s)
        assert 0 < took_s <= most * measured_s * (1 + 1e-12)
        at_s += took_s + pause_s

"""Seeds of a sweep are replicates: figures are means with Student's intervals, and settings are compared by seed."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.metrics.student import estimate
from harness.report.replicates import method, settings_of
from harness.report.sweep import Cell, varied
from harness.report.sweep_page import sweep_data
from harness.sweep.plot import heat_map
from harness.sweep.table import GOODPUT, _rank

GOOD = ("goodput", "requests_per_s")
T2 = 4.302653  # of Student's t, two-sided 95 %, two degrees of freedom


def cell(goodput: float | None, **knobs: object) -> Cell:
    named = {name.replace("__", "."): value for name, value in knobs.items()}
    return Cell(Path("sweep/cells/x"), named, {"goodput": {"requests_per_s": goodput}})


def by_seed(goodputs: dict[str, list[float]]) -> list[Cell]:
    return [
        cell(value, policy__name=policy, trace__seed=seed)
        for policy, values in goodputs.items()
        for seed, value in enumerate(values)
    ]


# Table of the t distribution, two-sided 95 % (Abramowitz and Stegun 26.10).
@pytest.mark.parametrize(
    ("freedom", "t"),
    [(1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (9, 2.262), (10, 2.228), (29, 2.045), (30, 2.042), (120, 1.980)],
)
def test_an_interval_is_students_t_standard_errors_wide(freedom: int, t: float) -> None:
    values = np.random.default_rng(freedom).normal(size=freedom + 1)
    half = estimate(values.tolist()).half
    assert half == pytest.approx(t * values.std(ddof=1) / math.sqrt(len(values)), rel=3e-4)


def test_the_interval_holds_the_mean_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0).normal(3.0, 2.0, size=(4000, 4))
    held = sum(abs(found.mean - 3.0) <= (found.half or 0.0) for found in map(estimate, draws.tolist()))
    assert held / len(draws) == pytest.approx(0.95, abs=0.012)


def test_one_value_has_no_interval() -> None:
    assert estimate([2.0]) == (2.0, None)


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=9), st.floats(-1e3, 1e3))
def test_an_estimate_moves_with_its_values(values: list[float], by: float) -> None:
    here, there = estimate(values), estimate([value + by for value in values])
    assert there.mean == pytest.approx(here.mean + by, abs=1e-6)
    assert there.half == pytest.approx(here.half, rel=1e-6, abs=1e-6)


def test_a_difference_is_paired_by_seed_and_so_the_narrower() -> None:
    a, b = settings_of(by_seed({"a": [1.0, 5.0, 9.0], "b": [2.0, 6.1, 9.9]}))[0]
    found = b.difference(a, GOOD)
    assert found is not None
    assert found.mean == pytest.approx(1.0)
    assert found.half == pytest.approx(T2 * 0.1 / math.sqrt(3))
    assert found.half < (a.estimate(GOOD) or found).half


def test_a_seed_that_failed_in_one_setting_is_left_out_of_the_pairs() -> None:
    cells = by_seed({"a": [1.0, 5.0, 9.0], "b": [2.0, 6.0, 10.0]})
    (a, b), seeds = settings_of(cells[:-1])
    assert b.difference(a, GOOD) == (1.0, 0.0)
    assert method([a, b], seeds).startswith("mean over 2 to 3 seeds (trace.seed)")


def test_the_luckiest_seed_chooses_nothing() -> None:
    steady, lucky = settings_of(by_seed({"steady": [5.0, 5.0, 5.0], "lucky": [1.0, 9.0, 2.0]}))[0]
    assert min((steady, lucky), key=lambda setting: _rank(setting, GOODPUT)) is steady


def test_without_seeds_every_cell_is_a_setting_of_its_own() -> None:
    settings, seeds = settings_of([cell(1.0, tp=1), cell(2.0, tp=2)])
    assert seeds == []
    assert [setting.name for setting in settings] == ["tp=1", "tp=2"]
    assert [setting.estimate(GOOD) for setting in settings] == [(1.0, None), (2.0, None)]


def test_a_seed_never_stands_for_a_knob_that_varies_with_it() -> None:
    cells = [
        cell(1.0, workload__prompt_seed=1, trace__generate__rate=4),
        cell(2.0, workload__prompt_seed=2, trace__generate__rate=8),
    ]
    assert list(varied(cells)) == ["trace.generate.rate"]


def test_a_page_has_the_settings_with_halves_of_their_intervals() -> None:
    data = sweep_data(by_seed({"a": [1.0, 3.0], "b": [4.0, 4.0]}), Path("sweep"))
    assert data["knobs"] == [{"name": "policy", "values": ["a", "b"]}]
    assert [(each["name"], each["values"]) for each in data["cells"]] == [("policy=a", [2.0]), ("policy=b", [4.0])]
    assert data["cells"][0]["halves"] == [pytest.approx(12.7062, rel=1e-4)]
    assert data["cells"][1]["halves"] == [0.0]
    assert "Student" in data["method"]


def test_a_heat_map_is_a_mean_over_seeds_whatever_their_number() -> None:
    cells = [
        cell(100 * tp + 10 * number + seed, trace__seed=seed, tp=tp, policy__name=policy)
        for seed in range(3)
        for tp in (1, 2)
        for number, policy in enumerate(("radix", "vllm"))
    ]
    del cells[-1]  # one has failed: the mean is of those that are left
    heat = heat_map(settings_of(cells)[0])
    assert {heat.across.name, heat.down.name} == {"tp", "policy"}
    assert heat.others == []
    grid = {
        (heat.down.values[row], heat.across.values[column]): value
        for (row, column), value in np.ndenumerate(heat.means)
    }
    assert {tuple(sorted(key)): value for key, value in grid.items()} == {
        ("1", "radix"): 101,
        ("2", "radix"): 201,
        ("1", "vllm"): 111,
        ("2", "vllm"): 210.5,
    }
    assert heat.halves[0, 0] == pytest.approx(T2 / math.sqrt(3))

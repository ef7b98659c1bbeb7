"""What a sweep varied is found from its configurations, whatever laid its directories out."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.metrics.files import RunError
from harness.report.sweep import Cell, load_cells, varied
from harness.report.sweep_page import sweep_data


def cell(knobs, ttft_s=None, path="0"):
    summary = {"metrics": {"ttft_s": {"p99": ttft_s, "p50": None}}}
    return Cell(Path("sweep") / path, knobs, summary)


def test_a_choice_that_changes_many_values_is_one_knob():
    cells = [
        cell({"name": f"{policy}_chat", "policy.name": policy, "policy.prefix_cache": cache, "tp": tp, "seed": 0})
        for policy, cache in (("radix", True), ("naive", False), ("vllm", True))
        for tp in (1, 2)
    ]
    assert varied(cells) == {
        "policy": ["radix", "radix", "naive", "naive", "vllm", "vllm"],
        "tp": ["1", "2"] * 3,
    }


def test_a_knob_that_only_some_have_is_null_in_the_others():
    assert varied([cell({"a": 1}), cell({"a": 1, "b": 2})]) == {"b": ["null", "2"]}


def test_runs_that_are_alike_vary_in_nothing():
    assert varied([cell({"a": 1})] * 3) == {}


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=20))
def test_the_knobs_that_are_kept_tell_apart_all_that_differ(rows):
    cells = [cell(dict(zip("abc", row, strict=True))) for row in rows]
    kept = varied(cells)
    told = list(zip(*kept.values(), strict=True)) if kept else [()] * len(rows)
    assert len(set(told)) == len(set(rows))


def test_values_are_ordered_as_numbers_and_unknown_metrics_left_out():
    cells = [cell({"rate": rate}, ttft_s=rate / 100, path=str(rate)) for rate in (8, 16, 4)]
    data = sweep_data(cells, Path("sweep"))
    assert data["knobs"] == [{"name": "rate", "values": ["4", "8", "16"]}]
    assert data["metrics"] == [{"label": "TTFT p99 (ms)", "smaller": True}]
    assert data["cells"] == [
        {"name": "8", "knobs": [1], "values": [80]},
        {"name": "16", "knobs": [2], "values": [160]},
        {"name": "4", "knobs": [0], "values": [40]},
    ]


def make_run(path, config="tp: 1\n", summary='{"metrics": {}}'):
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(config)
    (path / "summary.json").write_text(summary)
    (path / "requests.parquet").write_text("")


def test_runs_are_found_at_any_depth_and_in_the_order_of_their_numbers(tmp_path):
    for name in ("10_tp=1", "2_tp=2", "deep/er/0", "unfinished"):
        make_run(tmp_path / name)
    (tmp_path / "unfinished" / "summary.json").unlink()
    found = [each.path.relative_to(tmp_path).as_posix() for each in load_cells(tmp_path)]
    assert found == ["2_tp=2", "10_tp=1", "deep/er/0"]


@pytest.mark.parametrize(
    ("config", "summary", "message"),
    [
        ("a: [", '{"metrics": {}}', "config.yaml: not a configuration"),
        ("- 1", '{"metrics": {}}', "its top level is no mapping"),
        ("a: 1", "{", "summary.json: not JSON"),
        ("a: 1", "[]", "summary.json: not the summary of a run"),
    ],
)
def test_a_broken_file_is_named(tmp_path, config, summary, message):
    make_run(tmp_path / "0", config, summary)
    with pytest.raises(RunError, match=message):
        load_cells(tmp_path)


def test_a_directory_without_runs_is_named(tmp_path):
    with pytest.raises(RunError, match="no run in it"):
        load_cells(tmp_path)

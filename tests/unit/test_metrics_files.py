"""A run directory: what is written is read back, equal columns give equal bytes, a non-run is refused."""

import json

import numpy as np
import pandas as pd
import pytest

from harness.metrics.files import RunError, load_run, write_requests, write_steps, write_summary
from harness.metrics.schema import Decisions, complete_requests, complete_steps


def requests():
    return complete_requests(
        {
            "request_id": np.array([2**62, 8]),
            "session_id": np.array([5, -1]),
            "arrival_s": np.array([0.1, 0.2]),
            "client_first_token_s": np.array([0.3, np.nan]),
            "client_last_token_s": np.array([0.4, np.nan]),
            "prompt_tokens": np.array([3, 4]),
            "output_tokens": np.array([2, 0]),
            "priority": np.array([-1, 0]),
            "status": np.array([0, 4]),
            "finish_reason": np.array([1, -1]),
            "error": np.array([None, "longer than the context"], dtype=object),
            "slo_met": np.array([1, -1]),
            "warmup": np.array([False, True]),
        }
    )


def steps():
    return complete_steps(
        {
            "start_s": np.array([0.0, 1.0, 2.0]),
            "duration_s": np.ones(3),
            "prefill_tokens": np.array([4, 0, 3]),
            "decode_tokens": np.array([0, 2, 1]),
            "sequences": np.array([2, 2, 2]),
            "graph": np.array([False, True, False]),
        }
    )


def decisions():
    return Decisions(
        prefill_offsets=np.array([0, 2, 2, 3]),
        prefill_ids=np.array([7, 8, 9]),
        prefill_counts=np.array([1, 3, 3], dtype=np.int32),
        joined_offsets=np.array([0, 0, 2, 2]),
        joined_ids=np.array([7, 8]),
        left_offsets=np.array([0, 0, 0, 1]),
        left_ids=np.array([7]),
    )


def write_run(path, *, ran=True):
    path.mkdir()
    (path / "config.yaml").write_text("policy: radix\ntp: 2\n")
    write_requests(path, requests())
    write_steps(path, steps(), decisions() if ran else None)
    write_summary(path, {"metrics": {}, "complete": True})
    return path


def test_requests_read_back_as_they_were(tmp_path):
    run = load_run(write_run(tmp_path / "run"))
    for name, values in requests().items():
        np.testing.assert_array_equal(run.columns[name], values, err_msg=name)
        assert run.columns[name].dtype == values.dtype, name
    assert run.config == {"policy": "radix", "tp": 2}
    assert run.complete


def test_nulls_are_nulls_in_a_dataframe(tmp_path):
    frame = load_run(write_run(tmp_path / "run")).requests
    assert frame["session_id"].tolist() == [5, pd.NA]
    assert frame["request_id"].tolist() == [2**62, 8]
    assert frame["priority"].tolist() == [-1, 0]
    assert frame["status"].tolist() == ["ok", "rejected"]
    assert frame["slo_met"].tolist() == [True, pd.NA]
    assert frame[["finish_reason", "ttft_s", "parent_id"]].isna().to_numpy().tolist() == [
        [False, False, True],
        [True, True, True],
    ]


def test_steps_and_what_they_ran_read_back(tmp_path):
    run = load_run(write_run(tmp_path / "run"))
    assert run.steps["phase"].tolist() == ["prefill", "decode", "mixed"]
    assert [ids.tolist() for ids in run.steps["prefill_ids"]] == [[7, 8], [], [9]]
    for name, values in vars(decisions()).items():
        np.testing.assert_array_equal(getattr(run.decisions(), name), values, err_msg=name)


def test_a_run_that_kept_no_decisions_says_so(tmp_path):
    run = load_run(write_run(tmp_path / "run", ran=False))
    assert run.steps["prefill_ids"].isna().all()
    with pytest.raises(RunError, match="does not say what each step ran"):
        run.decisions()


def test_the_same_columns_give_the_same_bytes(tmp_path):
    one, two = write_run(tmp_path / "one"), write_run(tmp_path / "two")
    for name in ("requests.parquet", "steps.parquet", "summary.json"):
        assert (one / name).read_bytes() == (two / name).read_bytes()
    assert {path.name for path in one.iterdir()} == {
        "config.yaml",
        "requests.parquet",
        "steps.parquet",
        "summary.json",
    }


def test_a_summary_with_a_number_that_is_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_summary(tmp_path, {"mean": float("nan")})
    assert not list(tmp_path.iterdir())


def test_a_directory_that_is_no_run_is_named(tmp_path):
    with pytest.raises(RunError, match="nowhere: no such directory"):
        load_run(tmp_path / "nowhere")
    with pytest.raises(RunError, match=r"not a run directory: it has no config.yaml, no summary.json, no requests"):
        load_run(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("summary.json", "{", "summary.json: not JSON"),
        ("summary.json", json.dumps([1]), "summary.json: not the summary of a run"),
        ("config.yaml", "a: [", "config.yaml: not a configuration"),
        ("config.yaml", "- a", "config.yaml: not a configuration"),
        ("requests.parquet", "request_id\n1\n", "requests.parquet: not a Parquet file"),
    ],
)
def test_a_broken_file_is_named_in_one_line(tmp_path, name, content, message):
    path = write_run(tmp_path / "run")
    (path / name).write_text(content)
    with pytest.raises(RunError, match=message) as caught:
        load_run(path).columns  # noqa: B018 -- read on first use
    assert "\n" not in str(caught.value)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"summary.json: cannot be written .*hydra.run.dir=DIR"):
        write_summary(tmp_path / "file", {})
    with pytest.raises(RunError, match=r"requests.parquet: cannot be written"):
        write_requests(tmp_path / "file", requests())

"""The tables' columns: what a backend must hand over, and what is derived from it."""

import subprocess
import sys

import numpy as np
import pytest

from harness.metrics.schema import (
    NULL,
    PHASES,
    REQUEST_COLUMNS,
    STATUSES,
    STEP_COLUMNS,
    SchemaError,
    complete_requests,
    complete_steps,
)


def requests(**changes):
    base = {
        "request_id": np.array([7, 8, 9]),
        "arrival_s": np.array([0.0, 1.0, 2.0]),
        "sent_s": np.array([0.5, 1.0, np.nan]),
        "queued_s": np.array([0.5, 1.1, np.nan]),
        "scheduled_s": np.array([0.75, 1.2, np.nan]),
        "first_token_s": np.array([1.0, 1.5, np.nan]),
        "last_token_s": np.array([3.0, 1.5, np.nan]),
        "client_first_token_s": np.array([1.25, 1.75, np.nan]),
        "client_last_token_s": np.array([3.25, 1.75, np.nan]),
        "prompt_tokens": np.array([10, 20, 30]),
        "output_tokens": np.array([5, 1, 0]),
        "priority": np.array([0, -1, 2]),
        "status": np.array([0, 0, STATUSES.index("unfinished")]),
        "warmup": np.zeros(3, dtype=bool),
    }
    return {**base, **changes}


def steps(**changes):
    base = {
        "start_s": np.array([0.0, 1.0, 2.0]),
        "duration_s": np.ones(3),
        "prefill_tokens": np.array([4, 0, 4]),
        "decode_tokens": np.array([0, 2, 2]),
        "sequences": np.array([1, 2, 3]),
    }
    return {**base, **changes}


def test_derived_times_follow_their_definitions():
    table = complete_requests(requests())
    expected = {
        "send_lag_s": [0.5, 0.0, np.nan],
        "ttft_s": [1.25, 0.75, np.nan],
        "ttft_from_send_s": [0.75, 0.75, np.nan],
        "tpot_s": [0.5, np.nan, np.nan],
        "e2e_s": [3.25, 0.75, np.nan],
        "e2e_from_send_s": [2.75, 0.75, np.nan],
        "queue_s": [0.25, 0.1, np.nan],
        "prefill_s": [0.25, 0.3, np.nan],
        "decode_s": [2.0, 0.0, np.nan],
    }
    for name, values in expected.items():
        np.testing.assert_allclose(table[name], values, err_msg=name)


def test_the_table_has_every_column_in_order_and_what_is_unknown_is_null():
    table = complete_requests(requests())
    assert list(table) == [column.name for column in REQUEST_COLUMNS]
    assert (table["session_id"] == NULL).all()
    assert np.isnan(table["tokenized_s"]).all()
    assert table["error"].tolist() == [None] * 3
    assert table["priority"].tolist() == [0, -1, 2]


def test_every_column_of_both_tables_is_named_once():
    for schema in (REQUEST_COLUMNS, STEP_COLUMNS):
        names = [column.name for column in schema]
        assert len(names) == len(set(names))


def test_phase_is_what_a_step_ran():
    table = complete_steps(steps())
    assert [PHASES[code] for code in table["phase"]] == ["prefill", "decode", "mixed"]
    assert table["step"].tolist() == [0, 1, 2]
    assert table["prefill_tokens"].dtype == np.int32


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ttft": np.zeros(3)}, "unknown column 'ttft'"),
        ({"ttft_s": np.zeros(3)}, "'ttft_s' is derived"),
        ({"sent_s": np.zeros(2)}, r"'sent_s' has shape \(2,\), the first column has 3 rows"),
        ({"sent_s": np.zeros((3, 1))}, "'sent_s' has shape"),
        ({"prompt_tokens": np.array([1.5, 2, 3])}, "'prompt_tokens' is float64, give int64"),
        ({"arrival_s": np.array([0.0, np.nan, 1.0])}, "'arrival_s' is null in row 1"),
        ({"status": np.array([0, 0, 99])}, "'status' has a code outside 0..5: ok, error"),
        ({"status": np.array([0, 0, 0])}, r"request 9 \(row 2\) has status ok but no client_first_token_s"),
        ({"warmup": np.array([0, 1, -1])}, "'warmup' is null in row 2"),
    ],
)
def test_columns_that_are_not_the_schemas_are_refused(changes, message):
    with pytest.raises(SchemaError, match=message):
        complete_requests(requests(**changes))


def test_a_missing_column_that_may_not_be_null_is_named():
    base = requests()
    del base["prompt_tokens"]
    with pytest.raises(SchemaError, match=r"'prompt_tokens' \(tokens of the prompt\) is missing"):
        complete_requests(base)


def test_counts_that_do_not_fit_are_refused():
    with pytest.raises(SchemaError, match="'sequences' is int64, give int32"):
        complete_steps(steps(sequences=np.array([1, 2, 2**40])))


def test_naming_columns_needs_numpy_only():
    code = "import sys, harness.metrics.schema; print({'pandas', 'pyarrow', 'matplotlib'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"

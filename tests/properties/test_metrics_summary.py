"""A summary holds for any mix of outcomes, and a table survives its file."""

import json
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
from hypothesis import given

from harness.metrics.files import load_run, write_requests, write_summary
from harness.metrics.schema import FINISH_REASONS, STATUSES, complete_requests
from harness.metrics.slo import Slo, hold_to
from harness.metrics.summary import PERCENTILES, summarize

SECONDS = st.floats(min_value=0, max_value=1e5)
REQUEST = st.fixed_dictionaries(
    {
        "arrival_s": SECONDS,
        "lag_s": st.one_of(SECONDS, st.just(float("nan"))),
        "ttft_s": SECONDS,
        "decode_s": SECONDS,
        "output_tokens": st.integers(1, 50),
        "prompt_tokens": st.integers(1, 50),
        "cached_tokens": st.integers(-1, 50),
        "status": st.integers(0, len(STATUSES) - 1),
        "finish_reason": st.integers(-1, len(FINISH_REASONS) - 1),
        "warmup": st.booleans(),
        "error": st.one_of(st.none(), st.text(max_size=5)),
    }
)


def table(requests):
    columns = {name: np.array([request[name] for request in requests]) for name in requests[0]}
    lag_s, ttft_s, decode_s = (columns.pop(name) for name in ("lag_s", "ttft_s", "decode_s"))
    ended = columns["status"] == STATUSES.index("ok")
    first_s = np.where(ended, columns["arrival_s"] + ttft_s, np.nan)
    return complete_requests(
        {
            **columns,
            "request_id": np.arange(len(requests)),
            "sent_s": columns["arrival_s"] + lag_s,
            "client_first_token_s": first_s,
            "client_last_token_s": first_s + decode_s,
            "priority": np.zeros(len(requests), dtype=np.int64),
            "error": np.array([request["error"] for request in requests], dtype=object),
        }
    )


@given(st.lists(REQUEST, min_size=1, max_size=40))
def test_a_summary_adds_up_whatever_happened(requests):
    summary = summarize(table(requests), slo=Slo("any", ttft_s=10, tpot_s=1), environment={}, complete=True)
    json.dumps(summary, allow_nan=False)
    counts, goodput, throughput = summary["counts"], summary["goodput"], summary["throughput"]
    assert sum(counts[status] for status in STATUSES) == counts["requests"] == len(requests) - counts["warmup"]
    assert counts["ok"] <= counts["sent"] <= counts["requests"]
    assert summary["metrics"]["e2e_s"]["count"] == counts["ok"]
    for metric in summary["metrics"].values():
        if metric["count"]:
            ladder = [metric["min"], *(metric[name] for name in PERCENTILES), metric["max"]]
            assert ladder == sorted(ladder)
    if counts["sent"]:
        assert goodput["attainment"] <= min(goodput["attainment_by_limit"].values()) <= 1
    if throughput["requests_per_s"] is not None:
        assert goodput["requests_per_s"] <= throughput["requests_per_s"]


@given(st.lists(REQUEST, min_size=1, max_size=10))
def test_a_table_reads_back_as_it_was_written(requests):
    written = hold_to(table(requests), Slo("any", ttft_s=10))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        (path / "config.yaml").write_text("{}")
        write_summary(path, {"metrics": {}})
        write_requests(path, written)
        read = load_run(path).columns
        for name, values in written.items():
            np.testing.assert_array_equal(read[name], values, err_msg=name)

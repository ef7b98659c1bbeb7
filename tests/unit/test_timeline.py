"""The timeline keeps to the rules of the Trace Event Format, and says what the tables say."""

import gzip
import json
import warnings

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.metrics.schema import NULL, complete_requests, complete_steps
from harness.report import timeline
from harness.report.timeline import _nanoseconds

MOMENTS = (
    "sent_s",
    "received_s",
    "tokenized_s",
    "queued_s",
    "scheduled_s",
    "first_token_s",
    "client_first_token_s",
    "last_token_s",
    "detokenized_s",
    "sent_back_s",
    "client_last_token_s",
)


def requests_of(arrivals, waits, ok=None):
    """Requests whose moments follow each other by ``waits`` [requests, moments]."""
    n = len(arrivals)
    times = np.array(arrivals, dtype=float)[:, None] + np.cumsum(np.array(waits, dtype=float), axis=1)
    ok = np.ones(n, bool) if ok is None else np.array(ok)
    columns = {name: np.where(ok, times[:, i], np.nan) for i, name in enumerate(MOMENTS)}
    columns["sent_s"] = times[:, 0]
    return complete_requests(
        {
            "request_id": np.arange(n) + 100,
            "arrival_s": np.array(arrivals, dtype=float),
            **columns,
            "prompt_tokens": np.full(n, 10),
            "output_tokens": np.full(n, 5),
            "priority": np.zeros(n, np.int64),
            "status": np.where(ok, 0, 4).astype(np.int8),
            "error": np.where(ok, None, "too </long>"),
            "warmup": np.zeros(n, bool),
        }
    )


def steps_of(starts, durations, decodes, prefills, used):
    n = len(starts)
    return complete_steps(
        {
            "start_s": np.array(starts, dtype=float),
            "duration_s": np.array(durations, dtype=float),
            "prefill_tokens": np.array(prefills, dtype=np.int32),
            "decode_tokens": np.array(decodes, dtype=np.int32),
            "sequences": np.array(decodes, dtype=np.int32) + (np.array(prefills) > 0),
            "waiting": np.zeros(n, np.int32),
            "running": np.array(decodes, dtype=np.int32),
            "pages_used": np.array(used),
            "pages_cached": np.zeros(n, np.int64),
            "pages_free": 1000 - np.array(used),
        }
    )


def read(path):
    return json.loads(gzip.decompress((path / timeline.FILE).read_bytes()))


def slices_by_lane(document):
    lanes = {}
    for event in document["traceEvents"]:
        if event["ph"] == "X":
            lanes.setdefault((event["pid"], event["tid"]), []).append(event)
    return lanes


def check_rules(document):
    """Required keys, known phases, non-negative microseconds, and slices of a lane that nest."""
    for event in document["traceEvents"]:
        assert {"name", "ph", "pid"} <= set(event)
        assert event["ph"] in "XCiM"
        if event["ph"] != "M":
            assert event["ts"] >= 0
        if event["ph"] == "X":
            assert event["dur"] >= 0
            assert isinstance(event["tid"], int)
        if event["ph"] == "C":
            assert all(isinstance(value, int) for value in event["args"].values())
    for lane in slices_by_lane(document).values():
        open_until = []
        for event in sorted(lane, key=lambda event: (round(event["ts"] * 1000), -round(event["dur"] * 1000))):
            start = round(event["ts"] * 1000)
            while open_until and open_until[-1] <= start:
                open_until.pop()
            end = start + round(event["dur"] * 1000)
            assert not open_until or end <= open_until[-1], "slices of a lane overlap without nesting"
            open_until.append(end)
    counters = {}
    for event in document["traceEvents"]:
        if event["ph"] == "C":
            assert event["ts"] >= counters.get(event["name"], 0), "a counter goes back in time"
            counters[event["name"]] = event["ts"]


durations = st.floats(0, 50, allow_nan=False)


@given(st.lists(st.tuples(durations, st.lists(durations, min_size=11, max_size=11), st.booleans()), max_size=30))
def test_any_requests_give_a_trace_that_keeps_the_rules(drawn):
    requests = requests_of(
        [arrival for arrival, _, _ in drawn],
        np.array([waits for _, waits, _ in drawn]).reshape(-1, 11),
        [ok for _, _, ok in drawn],
    )
    document = json.loads(msgspec.json.encode(timeline.timeline(requests, None)))
    check_rules(document)
    drawn_ids = sorted(e["args"]["request_id"] for e in document["traceEvents"] if e["name"].startswith("request "))
    assert drawn_ids == [100 + row for row, (_, _, ok) in enumerate(drawn) if ok]
    fates = [event for event in document["traceEvents"] if event["ph"] == "i"]
    assert len(fates) == sum(not ok for _, _, ok in drawn)


@given(
    st.lists(st.tuples(st.floats(1e-6, 2), st.integers(0, 5), st.integers(0, 3), st.integers(0, 1000)), min_size=1),
    st.integers(1, 40),
)
def test_any_steps_keep_the_rules_and_no_token_is_lost(drawn, most):
    ends = np.cumsum([length for length, *_ in drawn])
    starts = np.append(0, ends[:-1])
    steps = steps_of(starts, [length for length, *_ in drawn], *zip(*(row[1:] for row in drawn), strict=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timeline, "MOST_STEPS", most)
        patch.setattr(timeline, "MOST_COUNTS", max(4, most))
        document = json.loads(msgspec.json.encode(timeline.timeline(requests_of([], np.empty((0, 11))), steps)))
    check_rules(document)
    slices = [event for event in document["traceEvents"] if event["ph"] == "X"]
    assert len(slices) <= most
    assert sum(event["args"]["steps"] for event in slices) == len(drawn)
    assert sum(event["args"]["prefill_tokens"] for event in slices) == int(steps["prefill_tokens"].sum())
    assert sum(event["args"]["decode_tokens"] for event in slices) == int(steps["decode_tokens"].sum())
    used = [event["args"]["used"] for event in document["traceEvents"] if event["name"] == "KV pages"]
    assert max(used) == int(steps["pages_used"].max())
    assert min(used) == int(steps["pages_used"].min())


def test_a_request_is_a_slice_in_every_process_in_microseconds(tmp_path):
    timeline.write_timeline(tmp_path, requests_of([2.0], [[0.5] * 11]), None)
    document = read(tmp_path)
    pids = {e["args"]["name"]: e["pid"] for e in document["traceEvents"] if e["name"] == "process_name"}
    assert list(pids) == ["client", "API server", "tokenizer", "scheduler", "engine", "detokenizer"]
    slices = {event["name"]: event for event in document["traceEvents"] if event["ph"] == "X"}
    expected = {  # name: process, start and duration in microseconds
        "request 100": ("client", 2.5e6, 5e6),
        "to first token": ("client", 2.5e6, 3e6),
        "stream": ("client", 5.5e6, 2e6),
        "serve 100": ("API server", 3e6, 4e6),
        "tokenize 100": ("tokenizer", 3e6, 0.5e6),
        "queue 100": ("scheduler", 4e6, 0.5e6),
        "run 100": ("engine", 4.5e6, 1.5e6),
        "prefill": ("engine", 4.5e6, 0.5e6),
        "decode": ("engine", 5e6, 1e6),
        "detokenize 100": ("detokenizer", 6e6, 0.5e6),
    }
    found = {name: (event["pid"], event["ts"], event["dur"]) for name, event in slices.items()}
    assert found == {name: (pids[process], start, length) for name, (process, start, length) in expected.items()}


def test_decode_steps_in_a_row_are_one_slice():
    steps = steps_of(np.arange(6.0), np.ones(6), [0, 2, 2, 2, 3, 3], [7, 0, 0, 0, 0, 0], [10] * 6)
    events = timeline.timeline(requests_of([], np.empty((0, 11))), steps)["traceEvents"]
    slices = [(event.name, event.ts, event.dur, event.args["steps"]) for event in events if event.ph == "X"]
    assert slices == [("prefill", 0, 1e6, 1), ("decode", 1e6, 3e6, 3), ("decode", 4e6, 2e6, 2)]


def test_of_many_requests_an_even_sample_is_drawn_and_it_says_so(tmp_path):
    n = 3 * timeline.MOST_REQUESTS
    timeline.write_timeline(tmp_path, requests_of(np.arange(n), np.full((n, 11), 0.1)), None)
    document = read(tmp_path)
    drawn = [e["args"]["request_id"] for e in document["traceEvents"] if e["name"].startswith("request ")]
    assert document["otherData"] == {"requests": n, "requests_drawn": timeline.MOST_REQUESTS}
    assert len(drawn) == timeline.MOST_REQUESTS
    assert (min(drawn), max(drawn)) == (100, 100 + n - 1)
    check_rules(document)


def test_a_time_that_no_clock_holds_is_drawn_at_the_end(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert _nanoseconds(np.array([1e300, np.nan, 1.5])).tolist() == [9 * 10**18, NULL, 1_500_000_000]


def test_the_same_columns_give_the_same_bytes(tmp_path):
    requests = requests_of([0, 1], [[0.1] * 11] * 2)
    timeline.write_timeline(tmp_path, requests, None)
    first = (tmp_path / timeline.FILE).read_bytes()
    timeline.write_timeline(tmp_path, requests, None)
    assert (tmp_path / timeline.FILE).read_bytes() == first


def test_a_directory_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nowhere.*cannot be written"):
        timeline.write_timeline(tmp_path / "nowhere", requests_of([0], [[0.1] * 11]), None)

"""What the transforms promise, and the figures that the real conversation trace is known for."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from traces import transforms
from traces.errors import TraceError
from traces.readers import read
from traces.schema import Blocks, Trace

REAL = Path(os.environ.get("SERVETWIN_TRACES") or Path(__file__).parents[3] / "shared" / "traces")


@pytest.fixture(scope="module")
def conversation() -> Trace:
    path = REAL / "mooncake" / "conversation_trace.jsonl"
    if not path.exists():
        pytest.skip(f"the real conversation trace is not under {REAL} (set SERVETWIN_TRACES)")
    return read(path)


def chain(n: int = 6, **columns: object) -> Trace:
    """Requests a second apart, each the follow-up of the one before, in blocks of 4 tokens."""
    prompts = np.arange(1, n + 1) * 4 + 5
    counts = -(-prompts // 4)
    ids = np.concatenate([np.append(np.arange(count - 1), 100 + row) for row, count in enumerate(counts)])
    return Trace.build(
        "chain",
        arrival_s=np.arange(n, dtype=np.float64),
        prompt_tokens=prompts,
        output_tokens=np.full(n, 10),
        blocks=Blocks.of_size(prompts, counts, ids, 4),
        block_size=4,
        **columns,
    )


def linked(n: int = 6) -> Trace:
    return chain(n, parent_id=np.arange(n) - 1, think_s=np.full(n, 0.5), session_id=np.zeros(n), turn=np.arange(n))


def test_window_begins_at_its_start_and_drops_links_that_lead_out():
    cut = transforms.window(linked(), 2.0, 5.0)
    cut.validate()
    assert cut.request_id.tolist() == [2, 3, 4]
    assert cut.arrival_s.tolist() == [0.0, 1.0, 2.0]
    assert cut.parent_id.tolist() == [-1, 2, 3]
    assert cut.block_id[: cut.block_start[1]].tolist() == [0, 1, 2, 3, 102]


def test_head():
    cut = transforms.head(linked(), 2)
    assert cut.request_id.tolist() == [0, 1]
    assert transforms.head(linked(), 99).request_id.tolist() == list(range(6))


def test_scaling_the_rate_keeps_think_times_and_scaling_time_does_not():
    faster = transforms.scale_rate(linked(), 2.0)
    assert faster.arrival_s.tolist() == [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
    assert set(faster.think_s.tolist()) == {0.5}
    slower = transforms.scale_time(linked(), 2.0)
    assert slower.arrival_s.tolist() == [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    assert set(slower.think_s.tolist()) == {1.0}


def test_at_rate_is_the_mean_rate_between_first_and_last():
    trace = transforms.at_rate(linked(), 4.0)
    assert (len(trace) - 1) / (trace.arrival_s[-1] - trace.arrival_s[0]) == pytest.approx(4.0)


def test_every_transform_leaves_a_note_and_its_input_alone():
    trace = linked()
    before = {name: getattr(trace, name).copy() for name in ("arrival_s", "parent_id", "block_id", "block_tokens")}
    results = (
        transforms.window(trace, 0, 9),
        transforms.head(trace, 3),
        transforms.scale_rate(trace, 2),
        transforms.scale_time(trace, 2),
        transforms.at_rate(trace, 2),
        transforms.sample(trace, "1"),
        transforms.thin(trace, "2/3"),
        transforms.merge([trace, trace]),
        transforms.cap_lengths(trace, prompt=9),
        transforms.recover_sessions(chain(), link_parents=True),
    )
    for result in results:
        result.validate()
        assert len(result.notes) == 1
    for name, values in before.items():
        assert np.array_equal(getattr(trace, name), values)


def many_sessions(n: int = 4000) -> Trace:
    return Trace.build(
        "many",
        arrival_s=np.arange(n, dtype=np.float64),
        prompt_tokens=np.full(n, 8),
        output_tokens=np.full(n, 8),
        session_id=np.arange(n) // 4,
        parent_id=np.where(np.arange(n) % 4 > 0, np.arange(n) - 1, -1),
    )


def test_sample_keeps_whole_sessions():
    trace = many_sessions()
    eighth = transforms.sample(trace, "1/8")
    sessions, sizes = np.unique(eighth.session_id, return_counts=True)
    assert set(sizes.tolist()) == {4}
    assert len(sessions) == pytest.approx(125, abs=35)
    assert np.array_equal(eighth.arrival_s, trace.arrival_s[eighth.request_id])
    assert (eighth.parent_id == -1).sum() == len(sessions)


def test_sample_of_a_smaller_fraction_is_within_the_larger_and_does_not_depend_on_the_rest():
    trace = many_sessions()
    eighth = set(transforms.sample(trace, Fraction(1, 8)).request_id.tolist())
    quarter = set(transforms.sample(trace, "1/4").request_id.tolist())
    later = set(transforms.sample(transforms.window(trace, 2000, 9999), "1/8").request_id.tolist())
    assert eighth < quarter
    assert later == {request for request in eighth if request >= 2000}
    assert set(transforms.sample(trace, "1/8", seed=1).request_id.tolist()) != eighth


def test_the_hash_is_fixed():
    """Samples named in published results must be the same in every version."""
    sessions = transforms.sample(many_sessions(), "1/100").session_id
    assert np.unique(sessions).tolist() == [196, 295, 472, 558, 663, 689, 710, 963, 975, 976, 992]


def test_thin_takes_single_requests_and_drops_their_links():
    thinned = transforms.thin(many_sessions(), "1/2")
    thinned.validate()
    assert len(thinned) == pytest.approx(2000, abs=130)
    assert (thinned.parent_id >= 0).sum() < len(thinned) * 0.5


def test_merge_keeps_two_traces_apart():
    trace = linked()
    both = transforms.merge([trace, transforms.scale_time(trace, 2.0)])
    both.validate()
    assert len(both) == 12
    assert len(np.unique(both.request_id)) == 12
    assert sorted(np.unique(both.session_id).tolist()) == [0, 1]
    assert (both.parent_id == -1).sum() == 2
    assert both.block_size == 4
    runs = [set(), set()]
    for row in range(12):
        runs[both.session_id[row]] |= set(both.block_id[both.block_start[row] : both.block_start[row + 1]].tolist())
        runs[both.session_id[row]].add(int(both.output_id[row]))
    assert not runs[0] & runs[1]
    assert [len(run) for run in runs] == [len(set(trace.block_id.tolist()) | set(trace.output_id.tolist()))] * 2


def test_cap_lengths_trims_blocks_from_the_end():
    trace = chain()
    capped = transforms.cap_lengths(trace, prompt=10, output=7)
    capped.validate()
    assert capped.prompt_tokens.tolist() == [9, 10, 10, 10, 10, 10]
    assert capped.output_tokens.tolist() == [7] * 6
    assert capped.max_tokens.tolist() == [7] * 6
    last = slice(capped.block_start[-2], capped.block_start[-1])
    assert capped.block_id[last].tolist() == [0, 1, 2]
    assert capped.block_tokens[last].tolist() == [4, 4, 2]

    total = transforms.cap_lengths(trace, total=12)
    total.validate()
    assert total.prompt_tokens.tolist() == [2] * 6, "the prompt gives way"
    assert total.output_tokens.tolist() == [10] * 6
    assert transforms.cap_lengths(trace, total=5).output_tokens.tolist() == [4] * 6


def test_recovered_sessions_follow_prefixes():
    trace = chain()
    found = transforms.recover_sessions(trace, link_parents=True)
    assert found.session_id.tolist() == [0] * 6
    assert found.turn.tolist() == list(range(6))
    assert found.parent_id.tolist() == [-1, 0, 1, 2, 3, 4], "the latest such request"
    assert transforms.recover_sessions(trace).parent_id.tolist() == [-1] * 6


def test_a_shared_first_block_alone_is_no_follow_up():
    prompts = np.array([8, 12, 12])
    ids = np.array([1, 2, 1, 3, 4, 1, 2, 5])
    trace = Trace.build(
        "shared",
        arrival_s=[0.0, 1.0, 2.0],
        prompt_tokens=prompts,
        output_tokens=[1, 1, 1],
        blocks=Blocks.of_size(prompts, prompts // 4, ids, 4),
        block_size=4,
    )
    assert transforms.recover_sessions(trace).session_id.tolist() == [0, 1, 0]


def test_conversation_has_a_third_of_follow_ups(conversation):
    found = transforms.recover_sessions(conversation, link_parents=True)
    found.validate()
    follow_ups = found.parent_id >= 0
    assert follow_ups.mean() == pytest.approx(0.33, abs=0.005)
    assert len(np.unique(found.session_id)) == len(found) - follow_ups.sum()
    assert np.array_equal(found.turn > 0, follow_ups)


def test_conversation_sample_is_an_eighth(conversation):
    sizes = [len(transforms.sample(conversation, "1/8", seed)) for seed in range(3)]
    assert np.mean(sizes) == pytest.approx(len(conversation) / 8, rel=0.06)
    once = transforms.sample(conversation, "1/8")
    named = transforms.sample(transforms.recover_sessions(conversation), "1/8")
    assert np.array_equal(once.request_id, named.request_id)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda t: transforms.window(t, 50, 60), "empty after window of 50 s to 60 s: it had 6"),
        (lambda t: transforms.head(t, 0), "empty after head of 0"),
        (lambda t: transforms.scale_rate(t, 0), "rate factor is 0, expected"),
        (lambda t: transforms.scale_time(t, float("nan")), "time factor is nan"),
        (lambda t: transforms.at_rate(t, -1), "rate is -1"),
        (lambda t: transforms.at_rate(transforms.head(t, 1), 1), "all its requests arrive at once"),
        (lambda t: transforms.sample(t, "9/8"), "fraction is '9/8', expected"),
        (lambda t: transforms.sample(t, "1/0"), "fraction is '1/0'"),
        (lambda t: transforms.thin(t, "some"), "fraction is 'some'"),
        (lambda t: transforms.cap_lengths(t, prompt=0), "cap of prompt tokens is 0, expected at least 1"),
        (lambda t: transforms.cap_lengths(t, total=1), "cap of total tokens is 1, expected at least 2"),
        (lambda t: transforms.recover_sessions(t.with_columns(has_blocks=False)), "names no prefixes"),
        (lambda t: transforms.merge([]), "nothing to merge"),
    ],
)
def test_what_bad_arguments_get(make, said):
    with pytest.raises(TraceError, match=said):
        make(linked())

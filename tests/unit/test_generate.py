"""Synthetic workloads: what was asked for is what comes, and one knob moves one thing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from traces.errors import TraceError
from traces.generate import Distribution, SyntheticWorkload, generate
from traces.schema import NONE, Trace

MANY = 20_000
SESSIONS = SyntheticWorkload(
    requests=3000,
    rate=5,
    turns=Distribution("geometric", mean=3, high=12),
    think_s=Distribution("exponential", mean=7),
    prefixes=6,
    prefix_tokens=Distribution("uniform", low=100, high=900),
)


def gaps(trace: Trace) -> np.ndarray:
    return np.diff(trace.arrival_s)


def blocks_of(trace: Trace, row: int) -> list[tuple[int, int]]:
    part = slice(trace.block_start[row], trace.block_start[row + 1])
    return list(zip(trace.block_id[part].tolist(), trace.block_tokens[part].tolist(), strict=True))


def test_the_same_seed_gives_the_same_trace_and_another_a_different_one() -> None:
    assert generate(SESSIONS).equals(generate(SESSIONS))
    assert not np.array_equal(generate(replace(SESSIONS, seed=1)).arrival_s, generate(SESSIONS).arrival_s)


@pytest.mark.parametrize(
    ("workload", "cv"),
    [
        (SyntheticWorkload(requests=MANY, rate=8), 1.0),
        (SyntheticWorkload(requests=MANY, rate=8, arrivals="gamma", burstiness=1.0), 1.0),
        (SyntheticWorkload(requests=MANY, rate=8, arrivals="gamma", burstiness=0.25), 2.0),
        (SyntheticWorkload(requests=MANY, rate=8, arrivals="gamma", burstiness=4.0), 0.5),
        (SyntheticWorkload(requests=MANY, rate=8, arrivals="constant"), 0.0),
    ],
)
def test_arrivals_have_the_rate_and_the_burstiness(workload: SyntheticWorkload, cv: float) -> None:
    between = gaps(generate(workload))
    assert between.mean() == pytest.approx(1 / 8, rel=0.05)
    assert between.std() / between.mean() == pytest.approx(cv, rel=0.05, abs=1e-4)


def test_all_at_once() -> None:
    assert generate(SyntheticWorkload(requests=50, arrivals="all_at_once")).arrival_s.tolist() == [0.0] * 50


def test_a_ramp_goes_from_one_rate_to_the_other() -> None:
    """From 2 to 10 requests a second over n / 6 seconds."""
    arrival = generate(SyntheticWorkload(requests=MANY, rate=2, rate_end=10)).arrival_s
    length = MANY / 6
    counts, _ = np.histogram(arrival, bins=4, range=(0, length))
    assert counts / (length / 4) == pytest.approx([3, 5, 7, 9], rel=0.05)


def test_a_ramp_without_a_slope_is_the_steady_rate() -> None:
    steady, ramp = SyntheticWorkload(rate=3), SyntheticWorkload(rate=3, rate_end=3)
    assert np.array_equal(generate(steady).arrival_s, generate(ramp).arrival_s)


def test_a_closed_loop_never_has_more_sessions_open_than_users() -> None:
    """Each session's first turn waits for the last turn of the user's session before."""
    trace = generate(replace(SESSIONS, requests=400, arrivals="closed_loop", concurrency=7))
    row_of = {int(r): i for i, r in enumerate(trace.request_id)}
    roots = [i for i in range(len(trace)) if trace.parent_id[i] == NONE]
    assert len(roots) == 7
    children = trace.parent_id[trace.parent_id != NONE].tolist()
    assert len(children) == len(set(children)), "each request is waited for by one other at most: a chain a user"
    for i in range(len(trace)):
        if trace.parent_id[i] != NONE and trace.turn[i] == 0:
            parent = row_of[int(trace.parent_id[i])]
            assert trace.turn[parent] == (trace.session_id == trace.session_id[parent]).sum() - 1


def test_fewer_sessions_than_users() -> None:
    trace = generate(SyntheticWorkload(requests=3, arrivals="closed_loop", concurrency=10))
    assert trace.parent_id.tolist() == [NONE] * 3


@pytest.mark.parametrize(
    ("wanted", "mean", "cv"),
    [
        (Distribution("fixed", mean=321), 321, 0),
        (Distribution("uniform", low=100, high=300), 200, 0.2887),
        (Distribution("exponential", mean=500), 500, 1),
        (Distribution("lognormal", mean=700, cv=1.3), 700, 1.3),
        (Distribution.lognormal_by_median(400, 0.5), 400 * np.exp(0.125), np.sqrt(np.expm1(0.25))),
        (Distribution("geometric", mean=4), 4, np.sqrt(0.75)),
    ],
)
def test_lengths_have_the_moments_asked_for(wanted: Distribution, mean: float, cv: float) -> None:
    trace = generate(SyntheticWorkload(requests=100_000, input=wanted, output=wanted))
    for tokens in (trace.prompt_tokens, trace.output_tokens):
        assert tokens.mean() == pytest.approx(mean, rel=0.02)
        assert tokens.std() / tokens.mean() == pytest.approx(cv, rel=0.05, abs=1e-9)


def test_input_and_output_lengths_are_independent() -> None:
    trace = generate(SyntheticWorkload(requests=MANY))
    assert abs(np.corrcoef(trace.prompt_tokens, trace.output_tokens)[0, 1]) < 0.03


def test_limits_hold() -> None:
    tokens = generate(
        SyntheticWorkload(input=Distribution("lognormal", mean=100, cv=3, low=50, high=200))
    ).prompt_tokens
    assert (tokens.min(), tokens.max()) == (50, 200)


def test_empirical_lengths_are_pairs_of_the_other_trace() -> None:
    other = generate(SyntheticWorkload(requests=40, input=Distribution("uniform", low=1, high=10**6)))
    trace = generate(SyntheticWorkload(requests=2000), lengths_from=other)
    pairs = set(zip(other.prompt_tokens.tolist(), other.output_tokens.tolist(), strict=True))
    assert set(zip(trace.prompt_tokens.tolist(), trace.output_tokens.tolist(), strict=True)) == pairs


def test_a_turn_repeats_the_conversation_and_adds_to_it() -> None:
    """Prompt of turn n + 1 = prompt of turn n + its answer + one new block; think time after the parent."""
    trace = generate(SESSIONS)
    row_of = {int(r): i for i, r in enumerate(trace.request_id)}
    seen_new: set[int] = set()
    later = 0
    for row in range(len(trace)):
        blocks = blocks_of(trace, row)
        assert blocks[-1][0] not in seen_new, "new text is new"
        seen_new.add(blocks[-1][0])
        if trace.turn[row] == 0:
            assert trace.parent_id[row] == NONE
            assert len(blocks) == 2
            assert blocks[0][0] < SESSIONS.prefixes
            continue
        later += 1
        parent = row_of[int(trace.parent_id[row])]
        assert trace.session_id[parent] == trace.session_id[row]
        assert trace.turn[parent] == trace.turn[row] - 1
        answer = (int(trace.output_id[parent]), int(trace.output_tokens[parent]))
        assert blocks[:-1] == [*blocks_of(trace, parent), answer]
        assert trace.arrival_s[row] == pytest.approx(trace.arrival_s[parent] + trace.think_s[row], abs=2e-6)
    assert later > 1000


def test_requests_are_exactly_as_many_as_asked_and_rate_counts_all_turns() -> None:
    trace = generate(replace(SESSIONS, requests=MANY, think_s=Distribution("fixed", mean=0)))
    assert len(trace) == MANY
    assert MANY / trace.arrival_s[-1] == pytest.approx(5, rel=0.05)
    turns = np.bincount(trace.session_id)
    assert turns.mean() == pytest.approx(3, rel=0.05)


def test_system_prompts_are_as_popular_as_zipf_says() -> None:
    trace = generate(SyntheticWorkload(requests=MANY, prefixes=4, prefix_skew=1.0))
    share = np.bincount(trace.block_id[trace.block_start[:-1]], minlength=4) / MANY
    assert share == pytest.approx(np.array([1, 1 / 2, 1 / 3, 1 / 4]) / (25 / 12), rel=0.05)


@pytest.mark.parametrize(
    ("knobs", "moves"),
    [
        ({"arrivals": "gamma", "burstiness": 0.3}, {"arrivals"}),
        ({"rate": 0.5}, {"arrivals"}),
        ({"input": Distribution("uniform", low=1, high=9)}, {"input"}),
        ({"output": Distribution("lognormal", mean=9, cv=2)}, {"output"}),
        ({"think_s": Distribution("lognormal", mean=2)}, {"think"}),
        ({"prefix_skew": 0.0}, {"prefix", "prefix_tokens"}),  # another system prompt has another length
        ({"prefix_tokens": Distribution("exponential", mean=50)}, {"prefix_tokens"}),
    ],
)
def test_changing_one_knob_never_shifts_the_others(knobs: dict[str, object], moves: set[str]) -> None:
    def seen(workload: SyntheticWorkload) -> dict[str, np.ndarray]:
        trace = generate(workload)
        order = np.lexsort((trace.turn, trace.session_id))
        last = trace.block_start[1:] - 1
        first = trace.block_start[:-1]
        columns = {
            "arrivals": trace.arrival_s * (trace.turn == 0),
            "input": trace.block_tokens[last],
            "output": trace.output_tokens,
            "think": trace.think_s,
            "prefix": trace.block_id[first],
            "prefix_tokens": trace.block_tokens[first],
        }
        return {key: column[order] for key, column in columns.items()}

    before, after = seen(SESSIONS), seen(replace(SESSIONS, **knobs))  # type: ignore[arg-type]
    assert {key for key in before if not np.array_equal(before[key], after[key])} == moves


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"requests": 0}, "requests is 0, expected 1 or more"),
        ({"rate": 0.0}, "rate is 0.0"),
        ({"rate": float("nan")}, "rate is nan"),
        ({"rate_end": -1.0}, "rate_end is -1.0"),
        ({"burstiness": 0.0}, "burstiness is 0.0"),
        ({"arrivals": "pareto"}, "pareto is unknown, choose from poisson, gamma"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_a_bad_knob_is_named(knobs: dict[str, object], said: str) -> None:
    with pytest.raises(TraceError, match=said):
        SyntheticWorkload(**knobs)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("pareto:mean=3", "pareto"),
        ("fixed:mean=x", "'mean=x' is not like mean=100"),
        ("fixed:average=3", "'average' is not mean, cv, low or high"),
        ("fixed:mean=-3", "mean is -3.0"),
        ("uniform:low=3", "uniform needs high"),
        ("uniform:low=3:high=2", "low=3.0, high=2.0"),
        ("geometric:mean=0.5", "geometric mean is 0.5, expected 1 or more"),
        ("lognormal:mean=3:cv=-1", "cv is -1.0"),
    ],
)
def test_a_bad_distribution_is_named(text: str, said: str) -> None:
    with pytest.raises(TraceError, match=said):
        Distribution.parse(text)


@settings(deadline=None)
@given(
    st.sampled_from(["fixed", "exponential", "lognormal", "geometric"]),
    st.integers(1, 10**5),
    st.sampled_from([0.25, 1.0, 2.0]),
    st.sampled_from([(0.0, float("inf")), (3.0, 900.0)]),
)
def test_a_distribution_reads_back_what_it_says(shape: str, mean: int, cv: float, limits: tuple[float, float]) -> None:
    made = Distribution(shape, mean, cv if shape == "lognormal" else 1.0, *limits)  # type: ignore[arg-type]
    assert Distribution.parse(str(made)) == made


def test_lognormal_by_median_as_text() -> None:
    assert Distribution.parse("lognormal:median=400:sigma=0.5") == Distribution.lognormal_by_median(400, 0.5)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 60),
    st.sampled_from(["poisson", "gamma", "constant", "all_at_once", "closed_loop"]),
    st.integers(1, 5),
    st.integers(0, 3),
    st.integers(1, 8),
    st.sampled_from([None, 0.1, 40.0]),
)
def test_any_workload_is_a_valid_trace(
    requests: int, arrivals: str, turns: int, prefixes: int, users: int, rate_end: float | None
) -> None:
    trace = generate(
        SyntheticWorkload(
            requests=requests,
            arrivals=arrivals,  # type: ignore[arg-type]
            turns=Distribution("uniform", low=1, high=turns),
            prefixes=prefixes,
            concurrency=users,
            rate_end=rate_end,
        )
    )
    trace.validate()
    assert len(trace) == requests
    assert trace.arrival_s[0] == 0

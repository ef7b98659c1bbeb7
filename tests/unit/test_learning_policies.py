"""Policies that learn from the sequences that ended, or plan by a model of the step."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.batching import SloChunked
from policies.errors import PolicyError
from policies.prediction import History, Oracle, Ranks
from policies.preemption import LeastUrgent, LongestRemaining, MinWaste, MostServed
from policies.registry import build
from policies.reservation import PastFuture
from runtime.scheduler import Sequence


def sequence(request_id: int, *, output: int = 0, prompt_tokens: int = 10, **fields: Any) -> Sequence:
    """A sequence with so much output committed."""
    predicted = fields.pop("predicted_tokens", 100)
    made = Sequence(request_id, prompt_tokens, np.zeros(1, np.int32), fields.pop("max_tokens", 100), **fields)
    made.ordinal, made.predicted_tokens = request_id, predicted
    made.output_tokens = output
    made.total += output
    made.computed = made.total - 1
    return made


# Batching.


class View:
    """What decodes."""

    waiting_sequences, prefilling_sequences, max_running, page_size, available_pages = 1, 0, 8, 1, 64

    def __init__(self, sequences: int, tokens: int, begun: int) -> None:
        self.decoding_sequences, self.decoding_tokens, self.prefilling_tokens = sequences, tokens, begun

    def cached_prefix(self, sequence: object) -> int:
        return 0

    def cached_node(self, sequence: object) -> None:
        return None


def budget(batching: SloChunked, sequences: int = 0, tokens: int = 0, begun: int = 0) -> int:
    (plan,) = batching.plan(View(sequences, tokens, begun), 0.0)
    assert plan.decode
    assert not plan.shared, "every decoding sequence takes part, whatever is left for prompts"
    return plan.prefill_tokens


def test_the_chunk_is_what_the_time_between_tokens_leaves() -> None:
    batching = SloChunked(
        tbt_s=0.05, base_s=0.01, prefill_token_s=1e-4, decode_token_s=1e-3, context_token_s=1e-6, min_tokens=16
    )
    assert budget(batching) == 400
    assert budget(batching, sequences=10) == 300
    assert budget(batching, sequences=10, tokens=20_000) == 100
    assert budget(batching, sequences=10, tokens=200_000) == 16, "prompts are not to starve"
    assert budget(SloChunked(tbt_s=100.0, step_tokens=512)) == 512
    long = SloChunked(tbt_s=0.05, base_s=0.01, prefill_token_s=1e-4, attention_token_s=1e-8)
    assert (budget(long), budget(long, begun=10_000), budget(long, begun=30_000)) == (400, 200, 100)


@given(st.integers(0, 500), st.integers(0, 10**6), st.integers(0, 100), st.integers(0, 10**5))
def test_more_to_decode_never_leaves_more_for_prompts(sequences: int, tokens: int, more: int, context: int) -> None:
    batching = SloChunked()
    assert 64 <= budget(batching, sequences + more, tokens + context) <= budget(batching, sequences, tokens) <= 8192


# Reservation.


def test_past_future_expects_the_longest_before_it_has_learnt() -> None:
    past_future = PastFuture()
    assert past_future.output_tokens(sequence(1)) == 100
    assert past_future.peak_pages([sequence(1), sequence(2, output=50)], page_size=1) == 60 + 110


def test_past_future_draws_from_the_lengths_that_are_not_passed_yet() -> None:
    past_future = PastFuture(window=4)
    for request_id, output in enumerate([1, 5, 10, 20, 40]):
        past_future.ended(sequence(request_id, output=output))
    drawn = [past_future.output_tokens(sequence(request_id)) for request_id in range(2000)]
    assert set(drawn) == {5, 10, 20, 40}, "the first has left the window"
    assert max(drawn.count(length) for length in set(drawn)) < 600
    assert {past_future.output_tokens(sequence(request_id, output=12)) for request_id in range(99)} == {20, 40}
    assert past_future.output_tokens(sequence(3, output=40)) == 100, "longer than any: to its limit"
    assert past_future.output_tokens(sequence(3, output=12, max_tokens=15)) == 15
    lengths = [past_future.output_tokens(sequence(7, output=output)) for output in range(45)]
    assert lengths == sorted(lengths), "a request keeps its quantile"


@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(0, 40)), min_size=1, max_size=8),
    st.lists(st.integers(1, 60), max_size=8),
    st.sampled_from([1, 4, 16]),
)
def test_the_peak_is_the_most_held_at_any_step(lengths: list[tuple[int, int]], past: list[int], page_size: int) -> None:
    past_future = PastFuture()
    for request_id, output in enumerate(past):
        past_future.ended(sequence(request_id, output=output))
    running = [sequence(i, prompt_tokens=prompt, output=output) for i, (prompt, output) in enumerate(lengths)]
    ends = [past_future.output_tokens(s) + s.prompt_tokens for s in running]
    held = [
        sum(-(-(s.total + step) // page_size) for s, end in zip(running, ends, strict=True) if s.total + step <= end)
        for step in range(101)
    ]
    peak = past_future.peak_pages(running, page_size)
    assert peak == max(held) if page_size == 1 else max(held) <= peak <= max(held) + len(running)


# Prediction.


def test_history_is_the_mean_of_the_session_and_else_of_all() -> None:
    history = History()
    assert history.output_tokens(sequence(0, session_id=1)) == 100
    for session, output in ((1, 10), (1, 20), (2, 60), (-1, 30)):
        history.ended(sequence(0, session_id=session, output=output))
    expected = {1: 15, 2: 60, 3: 30, -1: 30}
    assert {s: history.output_tokens(sequence(0, session_id=s)) for s in expected} == expected
    assert history.output_tokens(sequence(0, session_id=2, max_tokens=40)) == 40


@pytest.mark.parametrize("tau", [0.0, 0.3, 0.6, 0.9, 1.0])
def test_ranks_agree_with_the_truth_as_much_as_asked(tau: float) -> None:
    rng = np.random.default_rng(1)
    truth = np.exp(rng.normal(np.log(200), 1.0, 1200)).round().astype(int) + 1
    asked = [sequence(i, max_tokens=10**6, foretold_tokens=int(n)) for i, n in enumerate(truth)]
    ranks = np.array([Ranks(tau=tau, seed=3).output_tokens(s) for s in asked])
    assert ranks.min() >= 1
    assert ranks.max() <= 1000
    concordant = np.sign(truth[:, None] - truth) * np.sign(ranks[:, None] - ranks)
    assert concordant[np.triu_indices(len(truth), 1)].mean() == pytest.approx(tau, abs=0.04)
    assert Oracle().output_tokens(asked[0]) == truth[0]


# Preemption.


def test_victims_of_the_orders_that_would_interrupt() -> None:
    running = [
        sequence(0, output=30, predicted_tokens=40, priority=1),
        sequence(1, output=5, predicted_tokens=90, priority=0),
        sequence(2, output=2, predicted_tokens=10, prompt_tokens=60, priority=2),
        sequence(3, output=5, predicted_tokens=90, priority=0),
    ]
    assert MostServed().victim(running).ordinal == 0
    assert LongestRemaining().victim(running).ordinal == 3, "the latest of the two with 85 to come"
    assert LeastUrgent().victim(running).ordinal == 3
    assert MinWaste().victim(running).ordinal == 3, "14 tokens to compute again, as for 1, who came first"


@pytest.mark.parametrize(
    ("part", "name", "parameters", "said"),
    [
        ("batching", "slo_chunked", {"tbt_s": 0.0}, "policy.batching.tbt_s=0.0: expected seconds, more than 0"),
        ("batching", "slo_chunked", {"min_tokens": 0}, "policy.batching.min_tokens=0: a step needs room"),
        ("batching", "slo_chunked", {"context_token_s": -1.0}, "policy.batching.context_token_s=-1.0"),
        ("reservation", "past_future", {"window": 0}, "policy.reservation.window=0: at least 1 sequence"),
        ("prediction", "ranks", {"tau": 1.5}, "policy.prediction.tau=1.5: a rank correlation from 0 to 1"),
        ("prediction", "ranks", {"spread": 0.0}, "policy.prediction.spread=0.0"),
    ],
)
def test_a_parameter_out_of_range_is_named(part: str, name: str, parameters: dict[str, Any], said: str) -> None:
    with pytest.raises(PolicyError) as caught:
        build(part, name, parameters)
    assert str(caught.value).startswith(said)

"""What a trace is said to be like: checked by hand, by a token-level tree, and on the real traces."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from traces.generate import Distribution, SyntheticWorkload, generate
from traces.paths import find_paths
from traces.prompts import PromptMaker
from traces.schema import Blocks, Trace, offsets
from traces.stats import describe, ideal_cached_tokens

Prompt = list[tuple[int, int]]  # (block id, tokens)


def make_trace(prompts: list[Prompt], outputs: list[tuple[int, int]] | None = None, block_size: int = 0) -> Trace:
    counts = np.array([len(p) for p in prompts])
    flat = np.array([block for p in prompts for block in p], np.int64).reshape(-1, 2)
    answers = np.array(outputs or [(-1, 8)] * len(prompts))
    return Trace.build(
        "made",
        arrival_s=np.arange(len(prompts), dtype=float),
        prompt_tokens=[sum(t for _, t in p) for p in prompts],
        output_tokens=answers[:, 1],
        output_id=answers[:, 0],
        blocks=Blocks(offsets(counts), flat[:, 0].copy(), flat[:, 1].copy()),
        block_size=block_size,
    )


def real(name: str) -> Trace:
    from traces.readers import read

    root = Path(os.environ.get("SERVETWIN_TRACES", Path(__file__).parents[2] / ".." / "shared" / "traces"))
    if not (root / name).exists():
        pytest.skip(f"the real trace is absent: {root / name} (SERVETWIN_TRACES names its folder)")
    return read(root / name)


def test_blocks_hit_only_after_the_same_prefix() -> None:
    """Block 2 after block 9 is another prefix than block 2 after block 1, although the ids are equal."""
    trace = make_trace([[(1, 4), (2, 4), (3, 4)], [(1, 4), (2, 4), (4, 4)], [(9, 4), (2, 4)], [(9, 4), (2, 4), (5, 1)]])
    assert ideal_cached_tokens(trace).tolist() == [0, 8, 0, 8]


def test_the_last_token_is_always_computed() -> None:
    assert ideal_cached_tokens(make_trace([[(1, 4), (2, 3)]] * 3)).tolist() == [0, 6, 6]


def test_an_answer_is_cached_but_for_its_last_token() -> None:
    trace = make_trace([[(1, 10)], [(1, 10), (2, 6), (3, 5)], [(1, 10), (2, 6), (4, 5)]], [(2, 6), (-1, 1), (-1, 1)])
    assert ideal_cached_tokens(trace).tolist() == [0, 15, 16]


def test_a_shorter_block_is_the_beginning_of_a_longer_one() -> None:
    assert ideal_cached_tokens(make_trace([[(1, 5)], [(1, 9)], [(1, 7)]])).tolist() == [0, 5, 6]


def test_the_order_of_service_decides_who_hits() -> None:
    trace = make_trace([[(1, 4), (2, 4)], [(1, 4), (3, 4)]])
    assert ideal_cached_tokens(trace, order=[1, 0]).tolist() == [4, 0]


@pytest.mark.parametrize("order", [[0], [0, 0], [1, 2]])
def test_an_order_that_is_not_one_is_refused(order: list[int]) -> None:
    with pytest.raises(ValueError, match="each of the 2 rows once"):
        ideal_cached_tokens(make_trace([[(1, 4)], [(2, 4)]]), order)


def longest_cached(tokens: np.ndarray, cache: list[np.ndarray]) -> int:
    best = 0
    for other in cache:
        n = min(len(tokens), len(other))
        differ = np.flatnonzero(tokens[:n] != other[:n])
        best = max(best, int(differ[0]) if len(differ) else n)
    return min(best, len(tokens) - 1)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.lists(st.integers(0, 4), min_size=1, max_size=4), st.integers(0, 5)),
        min_size=1,
        max_size=10,
    ),
    st.randoms(use_true_random=False),
)
def test_the_ideal_is_what_comparing_all_tokens_finds(rows: list[tuple[list[int], int]], random: object) -> None:
    """Blocks against tokens: prompts, and answers but for their last token, served in any order."""
    trace = make_trace([[(h, h + 1) for h in blocks] for blocks, _ in rows], [(o, o + 1) for _, o in rows])
    order = list(range(len(rows)))
    random.shuffle(order)  # type: ignore[attr-defined]
    maker = PromptMaker(trace, vocab_size=1000)
    want = np.zeros(len(rows), np.int64)
    cache: list[np.ndarray] = []
    for row in order:
        want[row] = longest_cached(maker.prompt(row), cache)
        cache.append(np.concatenate((maker.prompt(row), maker.output(row)[:-1])))
    assert ideal_cached_tokens(trace, order).tolist() == want.tolist()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=5), min_size=1, max_size=12))
def test_paths_are_the_distinct_prefixes(prompts: list[list[int]]) -> None:
    trace = make_trace([[(h, 2) for h in p] for p in prompts])
    paths = find_paths(trace)
    prefixes = [tuple(p[: i + 1]) for p in prompts for i in range(len(p))]
    of_prefix = dict(zip(prefixes, paths.of_block.tolist(), strict=True))
    assert [of_prefix[p] for p in prefixes] == paths.of_block.tolist()
    assert sorted(of_prefix.values()) == list(range(len(paths)))
    for prefix, path in of_prefix.items():
        assert paths.id[path] == prefix[-1]
        assert paths.parent[path] == (of_prefix[prefix[:-1]] if len(prefix) > 1 else -1)


def test_lengths_rate_and_burstiness() -> None:
    trace = generate(SyntheticWorkload(requests=5000, rate=4, arrivals="gamma", burstiness=0.25))
    stats = describe(trace)
    assert stats.requests == 5000
    assert stats.rate == pytest.approx(4, rel=0.1)
    assert stats.burstiness_cv == pytest.approx(2, rel=0.1)
    assert stats.prompt.mean == pytest.approx(trace.prompt_tokens.mean())
    assert stats.prompt.p99 == pytest.approx(np.percentile(trace.prompt_tokens, 99))
    assert stats.output.max == trace.output_tokens.max()
    assert int(stats.window_requests.sum()) == 5000


def test_sessions_and_followups_of_a_generated_trace() -> None:
    """Every later turn goes on from an answer; nothing else does."""
    trace = generate(SyntheticWorkload(requests=2000, turns=Distribution("geometric", mean=3), prefixes=5))
    stats = describe(trace)
    later = int((trace.turn > 0).sum())
    assert (stats.followups, stats.chained) == (later, later)
    assert stats.sessions == len(np.unique(trace.session_id))
    assert stats.turns == pytest.approx(2000 / stats.sessions)
    assert stats.ideal_hit_ratio == pytest.approx(ideal_cached_tokens(trace).sum() / trace.prompt_tokens.sum())


def test_one_request_and_all_at_once_have_no_rate() -> None:
    for trace in (make_trace([[(1, 4)]]), generate(SyntheticWorkload(requests=9, arrivals="all_at_once"))):
        stats = describe(trace)
        assert np.isnan(stats.rate)
        assert np.isnan(stats.burstiness_cv)
        assert len(stats.window_requests) == 1


@pytest.mark.parametrize("window_s", [0.0, -1.0, float("nan"), float("inf")])
def test_a_window_must_be_a_time(window_s: float) -> None:
    with pytest.raises(ValueError, match="window_s is"):
        describe(make_trace([[(1, 4)]]), window_s)


def test_an_empty_window_has_no_ratio() -> None:
    trace = make_trace([[(1, 4)], [(1, 4)]]).with_columns(arrival_s=np.array([0.0, 25.0]))
    assert np.isnan(describe(trace, window_s=10).window_hit_ratio).tolist() == [False, True, False]


def test_conversation_has_the_published_numbers() -> None:
    stats = describe(real("mooncake/conversation_trace.jsonl"))
    assert stats.requests == 12_031
    assert stats.rate == pytest.approx(3.40, abs=0.005)
    assert stats.burstiness_cv == pytest.approx(1.01, abs=0.02)  # with the ticks spread
    assert (round(stats.prompt.mean), stats.prompt.p50, stats.prompt.max) == (12_035, 6909, 126_195)
    assert (round(stats.output.mean), stats.output.p50, stats.output.max) == (343, 350, 2000)
    assert stats.ideal_hit_ratio == pytest.approx(0.374, abs=0.0005)
    # The ticks are spread: a request near the edge of a window may be on its other side.
    assert stats.window_hit_ratio == pytest.approx([0.289, 0.358, 0.394, 0.390, 0.401, 0.413], abs=0.002)
    assert stats.followups / stats.requests == pytest.approx(0.33, abs=0.005)


@pytest.mark.parametrize(
    ("name", "requests", "rate", "cv", "prompt_mean", "output_p50"),
    [("code", 8819, 2.57, 13.2, 2048, 13), ("conv", 19_366, 5.53, 1.09, 1155, 129)],
)
def test_azure_has_the_published_numbers(
    name: str, requests: int, rate: float, cv: float, prompt_mean: float, output_p50: float
) -> None:
    stats = describe(real(f"azure_llm_2023/AzureLLMInferenceTrace_{name}.csv"))
    assert stats.requests == requests
    assert stats.rate == pytest.approx(rate, abs=0.005)
    assert stats.burstiness_cv == pytest.approx(cv, rel=0.005)
    assert round(stats.prompt.mean) == prompt_mean
    assert stats.output.p50 == output_p50
    assert not stats.has_blocks
    assert stats.ideal_hit_ratio == 0

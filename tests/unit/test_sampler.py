"""The sampler: what may be drawn, how often, and that nothing else matters."""

# ruff: noqa: E402 (what needs torch is imported once it is known to be there)
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from runtime.engine.params import GREEDY, SamplingError, SamplingParams
from runtime.engine.sampler import Sampled, Sampler, draw, gumbel
from runtime.scheduler import Batch, Chunk, Sequence, Snapshot

VOCAB = 12
CPU = torch.device("cpu")


def batch(sequences: list[Sequence]) -> Batch:
    return Batch(0, [], sequences, [], [], Snapshot(0, 0, 0, 0, 0, 0))


def sequences(count: int, first_id: int = 0) -> list[Sequence]:
    made = []
    for row in range(count):
        made.append(Sequence(first_id + row, 2, np.array([1, 2], np.int32), 99))
        made[-1].row = row
    return made


def sample(logits: Any, params: dict[int, SamplingParams], asked: list[Sequence], position: int = 2) -> Sampled:
    sampler = Sampler(len(asked), logits.shape[-1], CPU)
    for request_id, wanted in params.items():
        sampler.admit(request_id, wanted)
    return sampler.sample(logits, sampler.plan(batch(asked), np.full(len(asked), position)))


def keys(count: int, seed: int = 0) -> Any:
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 1 << 32, (count, 2)))


def drawn(logits: Any, count: int, truncates: bool, **settings: float) -> Any:
    wanted = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, **settings}
    temperature, top_p, top_k, min_p = (torch.full((count,), value) for value in wanted.values())
    return draw(logits.expand(count, -1), temperature, top_p, top_k, min_p, keys(count), truncates=truncates)


def allowed(logits: np.ndarray[Any, Any], temperature: float, top_p: float, top_k: int, min_p: float) -> set[int]:
    """By hand: min_p, then top_k, then top_p, each of what the one before left."""
    scaled = np.exp((logits - logits.max()) / temperature)
    ids = [i for i in np.argsort(-scaled, kind="stable") if scaled[i] >= min_p]
    ids = ids[: top_k or len(ids)]
    before = np.concatenate([[0], np.cumsum(scaled[ids] / scaled[ids].sum())[:-1]])
    return {int(i) for i, reached in zip(ids, before, strict=True) if reached < top_p}


@given(
    st.lists(st.integers(-40, 40), min_size=VOCAB, max_size=VOCAB, unique=True),
    st.sampled_from([0.3, 1.0, 2.0]),
    st.sampled_from([0.2, 0.71, 0.93, 1.0]),
    st.sampled_from([0, 1, 3, 50]),
    st.sampled_from([0.0, 0.13, 0.5]),
)
def test_draws_are_what_truncation_leaves(
    scores: list[int], temperature: float, top_p: float, top_k: int, min_p: float
) -> None:
    logits = np.array(scores) / 13.0
    settings = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "min_p": min_p}
    tokens = set(drawn(torch.tensor(logits, dtype=torch.float32), 3000, True, **settings).tolist())
    expected = allowed(logits, temperature, top_p, top_k, min_p)
    assert tokens <= expected
    likely = np.exp((logits - logits.max()) / temperature)
    share = {i: likely[i] / sum(likely[j] for j in expected) for i in expected}
    assert {i for i in expected if share[i] > 0.01} <= tokens


def test_draws_follow_the_softmax() -> None:
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5])
    count = 200_000
    tokens = drawn(logits, count, False, temperature=0.8)
    expected = torch.softmax(logits / 0.8, 0) * count
    surplus = (torch.bincount(tokens, minlength=5) - expected) / expected.sqrt()
    assert surplus.abs().max() < 4  # standard deviations


def test_noise_is_finite_and_reaches_the_rare_end() -> None:
    noise = gumbel(keys(4), 500_000)
    assert noise.isfinite().all()
    assert noise.max() > 13  # of two million draws, the largest is near log(2e6) = 14.5
    assert abs(noise.mean().item() - 0.5772) < 0.01


def test_a_row_without_truncation_is_not_truncated_beside_one_that_is() -> None:
    logits = torch.randn(4, 1000, generator=torch.Generator().manual_seed(0))
    temperature, top_p, top_k, min_p = (torch.full((4,), value) for value in (5.0, 1.0, 0, 0.0))
    plain = draw(logits, temperature, top_p, top_k, min_p, keys(4), truncates=False)
    top_k = torch.tensor([3, 0, 0, 0])
    beside = draw(logits, temperature, top_p, top_k, min_p, keys(4), truncates=True)
    assert beside[1:].tolist() == plain[1:].tolist()


def test_a_seed_gives_the_same_token_in_any_company() -> None:
    logits = torch.randn(VOCAB * 40, generator=torch.Generator().manual_seed(1))
    params = SamplingParams(seed=8, temperature=3.0)
    alone = sample(logits[None], {0: params}, sequences(1)).tokens.tolist()
    company = {0: GREEDY, 1: SamplingParams(temperature=2.0, top_k=5), 2: params, 3: SamplingParams(seed=9)}
    together = sample(logits.expand(4, -1), company, sequences(4)).tokens.tolist()
    assert together[2] == alone[0]
    assert together[0] == int(logits.argmax())
    other_position = sample(logits[None], {0: params}, sequences(1), position=3).tokens.tolist()
    assert other_position != alone


def test_requests_without_a_seed_differ_and_repeat() -> None:
    logits = torch.zeros(30, 5000)
    params = {request_id: SamplingParams() for request_id in range(30)}
    tokens = sample(logits, params, sequences(30)).tokens.tolist()
    assert len(set(tokens)) > 25
    assert sample(logits, params, sequences(30)).tokens.tolist() == tokens
    # A seed is not a request's number.
    seeded = {request_id: SamplingParams(seed=request_id) for request_id in range(30)}
    assert len(set(zip(tokens, sample(logits, seeded, sequences(30)).tokens.tolist(), strict=True))) > 25
    assert sum(a == b for a, b in zip(tokens, sample(logits, seeded, sequences(30)).tokens.tolist(), strict=True)) < 3


def test_counts_begin_anew_with_all_that_is_known() -> None:
    """A sequence that was preempted comes back with its output, in a row that another has used."""
    logits = torch.zeros(1, VOCAB)
    sampler = Sampler(1, VOCAB, CPU)
    params = SamplingParams(temperature=0, frequency_penalty=1.0, logit_bias={4: 2.5, 5: 1.5, 6: 0.75})
    other, one = sequences(1)[0], sequences(1, first_id=1)[0]
    for asked in (other, one):
        sampler.admit(asked.request_id, params)
    chosen = [sampler.sample(logits, sampler.plan(batch([other]), np.array([2]))).tokens.item() for _ in range(4)]
    assert chosen == [4, 4, 5, 6]  # 2.5, 1.5 and the first of two alike, then 0.75 or 0.5
    for token in (5, 4):
        one.append(token)
        one.output_tokens += 1
    prefill = Batch(0, [Chunk(one, 0, 4, True)], [], [], [], Snapshot(0, 0, 0, 0, 0, 0))
    assert sampler.sample(logits, sampler.plan(prefill, np.array([4]))).tokens.item() == 4  # 1.5 against 0.5
    assert sampler.sample(logits, sampler.plan(batch([one]), np.array([5]))).tokens.item() == 6


def test_logprobs_are_of_the_plain_distribution() -> None:
    logits = torch.randn(3, VOCAB, generator=torch.Generator().manual_seed(2))
    params = {
        0: SamplingParams(temperature=2.0, logprobs=0, seed=1, logit_bias={5: 100.0}),
        2: SamplingParams(temperature=0, logprobs=3),
    }
    sampled = sample(logits, params, sequences(3))
    exact = torch.log_softmax(logits, -1)
    assert sampled.tokens.tolist()[0] == 5
    assert sampled.logprobs is not None
    assert sampled.top_ids is not None
    assert sampled.top_logprobs is not None
    assert sampled.logprobs.tolist() == pytest.approx(exact[range(3), sampled.tokens].tolist())
    best = exact[2].argsort(descending=True)[:3]
    assert sampled.top_ids[2].tolist() == best.tolist()
    assert sampled.top_logprobs[2].tolist() == pytest.approx(exact[2][best].tolist())


def test_stop_tokens_wait_for_min_tokens() -> None:
    logits = torch.arange(VOCAB, dtype=torch.float32)[None]
    one = Sequence(0, 2, np.array([1, 2], np.int32), 99, stop_ids=frozenset([VOCAB - 1, VOCAB - 2, 10**6]))
    params = {0: SamplingParams(temperature=0, min_tokens=2)}
    chosen = [sample(logits, params, [one], position).tokens.item() for position in (2, 3, 4)]
    assert chosen == [VOCAB - 3, VOCAB - 3, VOCAB - 1]


def test_forgotten_requests_leave_nothing() -> None:
    sampler = Sampler(1, VOCAB, CPU)
    sampler.admit(0, SamplingParams(temperature=5.0))
    sampler.forget(0)
    sampler.forget(0)
    plan = sampler.plan(batch(sequences(1)), np.array([2]))
    assert plan.draws is None
    assert plan.logprobs is None


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("top_p", 0.0),
        ("top_p", 1.5),
        ("top_k", -1),
        ("min_p", 1.01),
        ("presence_penalty", 2.5),
        ("frequency_penalty", -3.0),
        ("repetition_penalty", 0.0),
        ("logprobs", 21),
        ("logit_bias", {3: float("nan")}),
        ("logit_bias", {-1: 1.0}),
        ("min_tokens", -2),
    ],
)
def test_bad_parameters_are_named(field: str, value: Any) -> None:
    with pytest.raises(SamplingError, match=field):
        SamplingParams(**{field: value})

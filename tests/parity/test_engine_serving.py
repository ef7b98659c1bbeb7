"""Whatever the scheduler does with a request, its tokens are those it gets alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from runtime.engine.params import SamplingParams
from runtime.scheduler import Sequence
from tests.tiny.models import continued, make_model
from tests.tiny.serving import Server, output, prompts, sequence

COUNT = 24
SHARED = prompts(50, seed=9)[0]
# Some share a prefix, one is another's prefix, one is another's twin.
ASKED = [*prompts(5, 70, 33), SHARED + prompts(9)[0], SHARED[:40], SHARED + prompts(20)[0], [*SHARED], [*SHARED]]
PAGE_SIZES = (1, 16)
SCARCE = {"reservation": {"name": "none"}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("models") / "qwen3"
    make_model("qwen3", folder)
    return folder


@pytest.fixture(scope="module")
def expected(folder: Path) -> list[list[int]]:
    """transformers' greedy continuations."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    return [continued(model, prompt, COUNT) for prompt in ASKED]


@pytest.fixture(params=[True, False], ids=["overlap", "in_turn"])
def overlap(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


class Open:
    """Servers, closed at the end of a test."""

    def __init__(self, folder: Path, overlap: bool) -> None:
        self._folder = folder
        self._overlap = overlap
        self.servers: list[Server] = []

    def __call__(self, policy: Mapping[str, Any] | None = None, **sizes: Any) -> Server:
        self.servers.append(Server(self._folder, policy=policy, overlap=self._overlap, **sizes))
        return self.servers[-1]


@pytest.fixture
def serve(folder: Path, overlap: bool) -> Iterator[Open]:
    serve = Open(folder, overlap)
    yield serve
    for server in serve.servers:
        server.close()


def asked(**options: Any) -> list[Sequence]:
    return [sequence(index, prompt, COUNT, **options) for index, prompt in enumerate(ASKED)]


def outputs(sequences: list[Sequence]) -> list[list[int]]:
    return [output(done) for done in sequences]


@pytest.mark.parametrize("page_size", PAGE_SIZES)
@pytest.mark.parametrize("batching", ["chunked", "prefill_first", "decode_first"])
def test_chunked_prefill(serve: Open, page_size: int, batching: str, expected: list[list[int]]) -> None:
    policy = {"batching": {"name": batching, "step_tokens": 13}}
    server = serve(policy, page_size=page_size, pages=1024 // page_size)
    sequences = asked()
    server.run(sequences)
    assert outputs(sequences) == expected
    assert max(done.chunks for done in sequences) > 5


@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_prefix_hits(serve: Open, page_size: int, expected: list[list[int]]) -> None:
    server = serve(page_size=page_size, pages=1024 // page_size)
    for _ in range(2):
        sequences = asked()
        server.run(sequences)
        assert outputs(sequences) == expected
    assert all(done.hit_tokens >= done.prompt_tokens - page_size for done in sequences)


@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_preemption_and_eviction(serve: Open, page_size: int, expected: list[list[int]]) -> None:
    policy = {"reservation": {"name": "none"}, "batching": {"name": "chunked", "step_tokens": 32}}
    server = serve(policy, page_size=page_size, pages=176 // page_size)
    sequences = asked()
    server.run(sequences)
    assert outputs(sequences) == expected
    assert sum(done.preemptions for done in sequences) > 0
    assert sum(done.recomputed_tokens for done in sequences) > 0


def test_no_prefix_cache(serve: Open, expected: list[list[int]]) -> None:
    server = serve({"prefix_cache": False, **SCARCE}, page_size=1, pages=176)
    sequences = asked()
    server.run(sequences)
    assert outputs(sequences) == expected


def test_stops_at_a_stop_token(serve: Open, expected: list[list[int]]) -> None:
    stop = expected[0][7]
    sequences = asked(stop_ids=frozenset([stop]))
    serve().run(sequences)
    for done, full in zip(sequences, expected, strict=True):
        end = full.index(stop) + 1 if stop in full else COUNT
        assert output(done) == full[:end]
        assert done.finish_reason == ("stop" if stop in full else "length")


@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_foretold_tokens_are_fed_in_place_of_sampled_ones(
    serve: Open, page_size: int, expected: list[list[int]]
) -> None:
    """A first turn is replayed with a foretold output; the second turn continues it from its KV in the prefix cache."""
    server = serve(page_size=page_size, pages=1024 // page_size)
    cut = [len(prompt) // 2 for prompt in ASKED]
    foretold = [
        # More tokens asked for than foretold, so that with overlap a surplus step is launched.
        sequence(index, prompt, 100, foretold_tokens=len(prompt) - half)
        for index, (prompt, half) in enumerate(zip(ASKED, cut, strict=True))
    ]
    steps = server.run(foretold)
    assert [output(done) for done in foretold] == [p[half:] for p, half in zip(ASKED, cut, strict=True)]
    assert {step.tokens is None for step in steps if step.sequences} == {True}
    sequences = asked()
    server.run(sequences)
    assert outputs(sequences) == expected
    assert all(done.hit_tokens >= done.prompt_tokens - page_size for done in sequences)


def test_sampled_tokens_depend_on_seed_and_request_alone(serve: Open) -> None:
    params = SamplingParams(
        temperature=0.9, top_p=0.95, seed=4, frequency_penalty=0.4, presence_penalty=0.1, repetition_penalty=1.1
    )
    alone = []
    for index, prompt in enumerate(ASKED[:6]):
        single = sequence(index, prompt, COUNT)
        serve().run([single], {index: params})
        alone.append(output(single))
    assert len({tuple(tokens) for tokens in alone}) == 6
    policy = {"reservation": {"name": "none"}, "batching": {"name": "chunked", "step_tokens": 17}}
    for page_size in PAGE_SIZES:
        server = serve(policy, page_size=page_size, pages=176 // page_size)
        sequences = asked()
        # Others in the batch are greedy, or have another seed.
        server.run(sequences, {**dict.fromkeys(range(6), params), 7: SamplingParams(seed=5, top_k=3)})
        assert sum(done.preemptions for done in sequences[:6]) > 0
        assert outputs(sequences)[:6] == alone


def test_penalties_and_biases_as_by_hand(serve: Open) -> None:
    """Every token counts from the step after it on, whether or not that one was launched before it was known."""
    params = SamplingParams(
        temperature=0,
        presence_penalty=0.5,
        frequency_penalty=0.7,
        repetition_penalty=1.3,
        logit_bias={43: 6.0, 48: 6.0},
        min_tokens=20,
    )
    prompt, server = ASKED[2], serve()
    by_hand: list[int] = []
    while len(by_hand) < COUNT:
        logits = server.all_logits(prompt + by_hand)[-1].numpy()
        logits[[43, 48]] += 6
        if len(by_hand) < 20:
            logits[:40] = -np.inf
        counts = np.bincount(by_hand, minlength=len(logits))
        seen = np.bincount(prompt + by_hand, minlength=len(logits)) > 0
        logits = np.where(seen, np.where(logits > 0, logits / 1.3, logits * 1.3), logits)
        by_hand.append(int((logits - 0.7 * counts - 0.5 * (counts > 0)).argmax()))
        if by_hand[-1] < 40:
            break
    single = sequence(0, prompt, COUNT, stop_ids=frozenset(range(40)))
    server.run([single], {0: params})
    assert output(single) == by_hand
    assert 20 < len(by_hand) < COUNT  # it stopped, and no sooner than it might
    assert max(np.bincount(by_hand)) > 1

"""Token ids of a trace: the hash is what it says, and token-level sharing is block-level sharing."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from traces.prompts import CHUNK, PromptMaker
from traces.schema import Blocks, Trace, offsets

Prompt = list[tuple[int, int]]  # (block id, tokens)
MASK = 2**64 - 1
QWEN_VOCAB = 151_936
GOLDEN_PROMPT = [61763, 7584, 101847, 104918, 14442, 146075, 105076]
GOLDEN_OUTPUTS = [[71736, 43221, 141022, 73698], [102142, 68470, 61678, 111515]]


def make_trace(prompts: list[Prompt], outputs: list[tuple[int, int]] | None = None) -> Trace:
    """A trace of these prompts; ``outputs`` are (output_id, tokens)."""
    counts = np.array([len(p) for p in prompts])
    flat = np.array([block for p in prompts for block in p], np.int64).reshape(-1, 2)
    answers = np.array(outputs or [(-1, 8)] * len(prompts), np.int64)
    return Trace.build(
        "made",
        arrival_s=np.arange(len(prompts), dtype=float),
        prompt_tokens=[sum(t for _, t in p) for p in prompts],
        output_tokens=answers[:, 1],
        output_id=answers[:, 0],
        blocks=Blocks(offsets(counts), flat[:, 0].copy(), flat[:, 1].copy()),
    )


def mix(word: int) -> int:
    """SplitMix64's step, from the paper."""
    z = (word + 0x9E3779B97F4A7C15) & MASK
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
    return z ^ z >> 31


def test_reference_is_splitmix64() -> None:
    """The published first outputs for the seed 1234567."""
    gamma = 0x9E3779B97F4A7C15
    assert [mix(1234567 + j * gamma) for j in range(3)] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


def test_every_token_but_the_first_is_the_documented_hash() -> None:
    seed, tokens = 42, [(7, 40), (2**62 + 5, 33)]
    made = PromptMaker(make_trace([tokens]), QWEN_VOCAB, seed).prompt(0)
    key = mix(mix(seed) + 0)
    position = 0
    for block, length in tokens:
        base = mix((block + key) & MASK)
        want = [(mix((base + j * 0x9E3779B97F4A7C15) & MASK) >> 33) * QWEN_VOCAB >> 31 for j in range(1, length)]
        assert made[position + 1 : position + length].tolist() == want
        position += length


def test_golden_values() -> None:
    """These never change: recorded runs and caches rely on them."""
    trace = make_trace([[(0, 4), (1, 3)], [(0, 4), (2, 3)]], [(3, 4), (-1, 4)])
    maker = PromptMaker(trace, QWEN_VOCAB)
    assert maker.prompt(0).tolist() == GOLDEN_PROMPT
    assert maker.prompt(1)[:4].tolist() == GOLDEN_PROMPT[:4]
    assert maker.output(0).tolist() == GOLDEN_OUTPUTS[0]
    assert maker.output(1).tolist() == GOLDEN_OUTPUTS[1]
    assert maker.prompt(0).dtype == np.int32


def test_a_long_block_is_one_stream_and_a_short_one_its_beginning() -> None:
    long = 2 * CHUNK + 17
    maker = PromptMaker(make_trace([[(5, long)], [(5, 9)], [(9, CHUNK - 3), (5, long)]]), 1000)
    whole = maker.prompt(0)
    assert len(whole) == long
    assert np.array_equal(whole[:9], maker.prompt(1))
    assert np.array_equal(whole, maker.prompt(2)[CHUNK - 3 :])


def test_the_answer_is_what_the_next_turn_contains() -> None:
    trace = make_trace([[(0, 20)], [(0, 20), (1, 8), (2, 5)]], [(1, 8), (-1, 8)])
    maker = PromptMaker(trace, QWEN_VOCAB)
    assert np.array_equal(maker.prompt(1)[20:28], maker.output(0))


def test_sampling_keeps_the_tokens() -> None:
    prompts: list[Prompt] = [[(0, 16), (h, 16)] for h in range(1, 200)]
    maker = PromptMaker(make_trace(prompts), QWEN_VOCAB)
    alone = PromptMaker(make_trace([prompts[57]]), QWEN_VOCAB)
    assert np.array_equal(maker.prompt(57), alone.prompt(0))


def test_another_seed_shares_nothing() -> None:
    trace = make_trace([[(h, 64)] for h in range(50)])
    one, two = PromptMaker(trace, QWEN_VOCAB, 1), PromptMaker(trace, QWEN_VOCAB, 2)
    assert all(one.prompt(r)[0] != two.prompt(r)[0] for r in range(50))
    same = sum(int((one.prompt(r) == two.prompt(r)).sum()) for r in range(50))
    assert same <= 2


def test_tokens_spread_evenly() -> None:
    """Chi-square over 64 buckets stays near its 63 degrees of freedom."""
    tokens = PromptMaker(make_trace([[(3, 640_000)]]), QWEN_VOCAB).prompt(0)
    counts = np.bincount(tokens.astype(np.int64) * 64 // QWEN_VOCAB, minlength=64)
    assert tokens.min() >= 0
    assert tokens.max() < QWEN_VOCAB
    assert 20 < float(((counts - 10_000) ** 2 / 10_000).sum()) < 130


def test_a_vocabulary_that_is_too_small_still_gives_lengths_and_range() -> None:
    maker = PromptMaker(make_trace([[(h, 3)] for h in range(40)]), 7)
    assert {len(p) for p in maker.prompts()} == {3}
    assert max(int(p.max()) for p in maker.prompts()) < 7


@pytest.mark.parametrize("vocab", [0, -1, 2**31 + 1])
def test_a_vocabulary_out_of_range_is_refused(vocab: int) -> None:
    with pytest.raises(ValueError, match=f"vocab_size .* got {vocab}"):
        PromptMaker(make_trace([[(0, 1)]]), vocab)


def shared_tokens(a: np.ndarray, b: np.ndarray) -> int:
    n = min(len(a), len(b))
    differ = np.flatnonzero(a[:n] != b[:n])
    return int(differ[0]) if len(differ) else n


def shared_blocks(a: Prompt, b: Prompt) -> int:
    tokens = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        tokens += x[1]
    return tokens


ids = st.one_of(st.integers(0, 6), st.integers(0, 2**63 - 1), st.integers(0, 5).map(lambda k: k * QWEN_VOCAB))
paths = st.lists(ids, min_size=1, max_size=5)
answers = st.one_of(ids, st.just(-1))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(paths, answers), min_size=2, max_size=12),
    st.integers(0, 3),
    st.sampled_from([64, 1000]),
)
def test_tokens_are_shared_exactly_as_far_as_blocks(rows: list[tuple[list[int], int]], seed: int, vocab: int) -> None:
    """Prompts with their answers, pairwise: the same length by tokens and by blocks, collisions included."""

    def size(h: int) -> int:
        return h % 5 + 1

    prompts = [[(h, size(h)) for h in blocks] for blocks, _ in rows]
    outputs = [(o, size(o)) for _, o in rows]
    maker = PromptMaker(make_trace(prompts, outputs), vocab, seed)
    whole = [np.concatenate((maker.prompt(r), maker.output(r))) for r in range(len(rows))]
    own = [(-2 - r, n) if o == -1 else (o, n) for r, (o, n) in enumerate(outputs)]  # unnamed: like no other
    blocks = [[*p, o] for p, o in zip(prompts, own, strict=True)]
    for i in range(len(rows)):
        for j in range(i):
            assert shared_tokens(whole[i], whole[j]) == shared_blocks(blocks[i], blocks[j])


def conversation() -> Path:
    root = Path(os.environ.get("SERVETWIN_TRACES", Path(__file__).parents[2] / ".." / "shared" / "traces"))
    path = root / "mooncake" / "conversation_trace.jsonl"
    if not path.exists():
        pytest.skip(f"the real trace is absent: {path} (SERVETWIN_TRACES names its folder)")
    return path


def test_the_whole_conversation_trace_shares_tokens_as_blocks() -> None:
    """A tree of 512-token pages, built from tokens alone, has exactly the branches of the hash ids."""
    from traces.readers import read

    trace = read(conversation())
    maker = PromptMaker(trace, QWEN_VOCAB)
    pages: dict[tuple[int, bytes], int] = {}  # (parent page, digest of its tokens) -> page
    starts: set[tuple[int, int]] = set()  # (parent page, first token)
    seen: set[int] = set()  # hash ids: in this trace an id names a whole prefix
    for row, tokens in enumerate(maker.prompts()):
        at = -1
        blocks = trace.block_id[trace.block_start[row] : trace.block_start[row + 1]].tolist()
        assert len(tokens) == trace.prompt_tokens[row]
        for page, block in enumerate(blocks):
            part = tokens[page * 512 : (page + 1) * 512]
            key = (at, hashlib.blake2b(part.tobytes(), digest_size=16).digest())
            assert (key in pages) == (block in seen)
            if key not in pages:
                assert (at, int(part[0])) not in starts, "a new branch shares its first token with a sibling"
            starts.add((at, int(part[0])))
            seen.add(block)
            at = pages.setdefault(key, len(pages))
    assert len(pages) == len(seen)

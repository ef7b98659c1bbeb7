"""``harness cache``: what it prints and writes, what a mistake gets, and the ratios known of a real trace."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from harness import cli
from harness.cache.accesses import Accesses, cut
from harness.cache.clairvoyant import belady_hits
from harness.cache.errors import CacheError
from harness.cache.lab import PolicySpec, compare, hits_at, ratios
from harness.cache.reuse import find_reuse
from harness.cache.work import prefill_flops
from harness.commands.cache import main
from harness.cost.model import ModelShape
from traces.generate import Distribution, SyntheticWorkload, generate
from traces.load import load
from traces.schema import Blocks, Trace
from traces.transforms import sample
from traces.writers import write

SHAPE = {
    "architectures": ["LlamaForCausalLM"],
    "name": "toy",
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 16,
    "vocab_size": 32,
    "max_position_embeddings": 64,
}


@pytest.fixture
def model() -> ModelShape:
    return ModelShape.from_hf_config(SHAPE)


@pytest.fixture
def made(tmp_path: Path) -> str:
    """A trace with prefixes and sessions."""
    workload = SyntheticWorkload(requests=200, rate=3, turns=Distribution("geometric", 4), prefixes=4)
    path = tmp_path / "made.jsonl"
    write(generate(workload, name="made"), path)
    return str(path)


def trace_of(prompts: list[list[tuple[int, int]]], block_size: int = 0) -> Trace:
    """A trace of prompts given as (block id, tokens)."""
    counts = np.array([len(prompt) for prompt in prompts])
    flat = np.array([block for prompt in prompts for block in prompt])
    blocks = Blocks(np.concatenate(([0], np.cumsum(counts))), flat[:, 0].copy(), flat[:, 1].copy())
    lengths = np.add.reduceat(blocks.tokens, blocks.start[:-1])
    return Trace.build(
        "t", arrival_s=np.arange(len(prompts)), prompt_tokens=lengths, output_tokens=np.ones(len(prompts)),
        blocks=blocks, block_size=block_size,
    )  # fmt: skip


def runs(accesses: Accesses) -> list[list[int]]:
    return [part.tolist() for part in np.split(accesses.block, accesses.start[1:-1])]


def test_cut_keeps_the_blocks_of_a_regular_trace() -> None:
    trace = trace_of([[(7, 4), (8, 4), (9, 2)], [(7, 4), (8, 4), (5, 4)], [(8, 4)]], block_size=4)
    (a, b, tail), (a2, b2, other), (alone,) = runs(cut(trace))
    assert (a, b) == (a2, b2)
    assert len({a, b, tail, other, alone}) == 5, "a block is named by all before it"


def test_cut_shares_exactly_the_tokens_that_are_shared() -> None:
    # 10 tokens are shared, so 3 whole blocks of 3; the first prompt ends within a block that the second goes past.
    trace = trace_of([[(1, 4), (2, 6), (3, 2)], [(1, 4), (2, 6), (4, 8)]])
    first, second = runs(cut(trace, 3))
    assert (len(first), len(second)) == (4, 6)
    assert first[:3] == second[:3]
    assert not set(first[3:]) & set(second[3:])


def test_an_eviction_policy_sees_the_sessions_of_the_trace_or_those_that_prefixes_tell() -> None:
    talk = [(1, 4), (2, 4), (3, 4)]
    trace = trace_of([talk[:2], [(7, 4), (8, 4)], talk], block_size=4)
    first, other, follow_up = cut(trace).readers
    assert first.session_id == follow_up.session_id != other.session_id
    named = trace.with_columns(session_id=np.array([5, 6, 6]), priority=np.array([0, 2, 1]))
    assert [(reader.session_id, reader.priority) for reader in cut(named).readers] == [(5, 0), (6, 2), (6, 1)]


def test_the_last_token_is_never_found() -> None:
    accesses = cut(trace_of([[(1, 4), (2, 4)], [(1, 4), (2, 4)]], block_size=4))
    assert accesses.cached_tokens(np.array([0, 2])).tolist() == [0, 7]


def test_prefill_operations_are_those_of_the_weights_and_of_causal_attention(model: ModelShape) -> None:
    weights = 2 * (8 * (8 + 4 + 4) + 8 * 8 + 3 * 8 * 16)  # of the layers
    found = prefill_flops(model, np.array([0, 1, 3]))
    assert found.tolist() == [0, 2 * weights + 4 * 2 * 8, 3 * 2 * weights + 4 * 2 * 8 * (1 + 2 + 3)]


def test_the_bound_and_the_unbounded_are_always_there(made: str, model: ModelShape) -> None:
    accesses = cut(load(made), 16)
    seen: list[tuple[int, int]] = []
    policies = [PolicySpec.parse("lfu"), PolicySpec.parse("lru")]
    cells = compare([accesses], policies, [20, 80], model, 1, lambda done, of: seen.append((done, of)))
    assert [(cell.policy, cell.size_blocks) for cell in cells] == [
        *((policy, size) for policy in ("lfu", "lru", "belady") for size in (20, 80)),
        ("unbounded", accesses.distinct),
    ]
    found = {(cell.policy, cell.size_blocks): cell for cell in cells}
    assert (
        found["lru", 20].hit_ratio <= found["belady", 20].hit_ratio <= found["unbounded", accesses.distinct].hit_ratio
    )
    assert found["lru", 20].hit_ratio < found["lru", 80].hit_ratio
    assert seen[-1][0] == seen[-1][1] == len(seen)


def test_processes_find_what_one_process_finds(made: str, model: ModelShape) -> None:
    samples = [cut(sample(load(made), "1/2", seed), 16) for seed in range(2)]
    policies = [PolicySpec.parse(text) for text in ("s3fifo", "lru", "belady:horizon=5")]
    one, two = (compare(samples, policies, [10, 40], model, jobs, lambda done, of: None) for jobs in (1, 2))
    assert one == two


def test_lengths_in_tokens_reach_the_tree_in_blocks(made: str) -> None:
    spec = PolicySpec.parse("tlru:budget_tokens=1024:next_tokens=128")
    assert spec.eviction(64)._spare == 14  # type: ignore[attr-defined]
    assert PolicySpec.parse("gdsf").eviction(512)._attention_tokens == 24_000 / 512  # type: ignore[attr-defined]


def test_the_command_prints_tables_and_saves_cells_and_curves(
    made: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plot, out = tmp_path / "curves.svg", tmp_path / "cells.parquet"
    words = [
        made,
        "--policies",
        "lru,lru_k:k=3",
        "--sizes",
        "50,10",
        "--block",
        "16",
        "--sample",
        "1/2",
        "--seeds",
        "3",
    ]
    assert main([*words, "--jobs", "1", "--plot", str(plot), "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "(of 1/2 of the sessions, seed 0)" in said
    assert "Prompt tokens found (%), mean of seeds 0 to 2 ± half their spread" in said
    assert "Of the tokens that Belady's bound finds (%), mean of seeds 0 to 2" in said
    assert "Prefill operations saved (%), qwen3_8b" in said
    assert said.index("lru_k:k=3") < said.index("belady") < said.index("unbounded")
    table = pd.read_parquet(out)
    assert list(table) == ["policy", "size_blocks", "size_tokens", "sample", "hit_ratio", "of_belady", "flops_saved"]
    assert len(table) == 3 * (3 * 2 + 1)
    assert (table.size_tokens == 16 * table.size_blocks).all()
    bounded = table[table.policy != "unbounded"].pivot(index=["size_blocks", "sample"], columns="policy")
    assert (bounded.of_belady.belady == 1.0).all()
    assert np.allclose(bounded.of_belady.lru, bounded.hit_ratio.lru / bounded.hit_ratio.belady)
    assert "<svg" in plot.read_text()


def test_the_same_samples_give_the_same_cells(made: str, tmp_path: Path) -> None:
    cells = []
    for name, jobs in (("one", "1"), ("again", "1"), ("apart", "2")):
        out = tmp_path / f"{name}.csv"
        words = ["--policies", "lhd,session", "--sizes", "10,40", "--block", "16", "--sample", "1/2", "--seeds", "2"]
        assert main([made, *words, "--jobs", jobs, "--out", str(out)]) == 0
        cells.append(out.read_text())
    assert cells[0] == cells[1] == cells[2]
    table = pd.read_csv(tmp_path / "one.csv")
    assert table.groupby("sample").hit_ratio.mean().nunique() == 2, "two seeds draw two samples"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--policies", "lru,lfru"], "--policies lfru: policy.eviction.name=lfru: no such policy. Choose one of lru,"),
        (["--policies", "lru:k=2"], "--policies lru:k=2: policy.eviction=lru: got an unexpected keyword argument 'k'"),
        (["--policies", "lru_k:k=two"], "'k=two' is not PARAMETER=NUMBER"),
        (["--policies", "lru_k:k=0"], "policy.eviction.k=0: expected at least 1"),
        (["--policies", "belady:horizon=0"], "belady takes a horizon of 1 request or more"),
        (["--sizes", "10,ten"], "--sizes 10,ten: expected positive numbers of blocks"),
        (["--sizes", "0"], "--sizes 0: expected positive numbers of blocks"),
        (["--block", "0"], "--block 0: expected a positive number of tokens"),
        ([], "has blocks of no fixed size: name one in tokens, e.g. --block 16"),
        (["--seeds", "3"], "--seeds 3: the whole trace is one sample; say which share to draw"),
        (["--sample", "2"], "fraction is '2', expected one more than 0 and at most 1"),
        (["--jobs", "0"], "--seeds 1 --jobs 0: expected 1 or more of each"),
        (["--model", "gpt2"], "--model gpt2: no such model. Choose one of llama3_70b,"),
        (["--out", "cells.xlsx"], "--out cells.xlsx: end it in .csv or .parquet"),
    ],
)
def test_a_mistake_is_one_line(made: str, words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    block = ["--block", "16"] if words else []
    assert cli.main(["cache", made, "--jobs", "1", *block, *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("harness cache: ")
    assert said in error
    assert error.count("\n") == 1


def test_a_trace_without_prefixes_is_refused() -> None:
    bare = Trace.build("bare", arrival_s=[0.0], prompt_tokens=[5], output_tokens=[1])
    with pytest.raises(CacheError, match="'bare' names no prefixes"):
        cut(bare, 16)


@pytest.fixture(scope="module")
def conversation(real_traces: Path) -> Trace:
    path = real_traces / "mooncake" / "conversation_trace.jsonl"
    if not path.is_file():
        pytest.skip(f"the Mooncake conversation trace is not at {path}")
    return load(str(path))


def percent(accesses: Accesses, policy: str, sizes: list[int], model: ModelShape) -> list[float]:
    hits = hits_at(accesses, PolicySpec.parse(policy), sizes)
    return [round(100 * ratios(accesses, row, model)[0], 1) for row in hits]


def test_the_ratios_known_of_conversation(conversation: Trace, model: ModelShape) -> None:
    accesses = cut(conversation)
    assert (len(accesses.block), accesses.block_size) == (288_500, 512)
    assert percent(accesses, "lru", [5_000, 10_000, 30_000, 10**6], model) == [11.4, 21.6, 33.2, 37.4]
    assert percent(accesses, "lfu", [5_000, 30_000], model) == [9.4, 28.1]
    assert percent(accesses, "fifo", [10_000], model) == [21.5]


def test_the_ratios_known_of_an_eighth_of_conversation(conversation: Trace, model: ModelShape) -> None:
    """LRU 17 to 28 %, Belady 34 to 39 %; draws differ by 1 to 3 points."""
    draws = [cut(sample(conversation, "1/8", seed)) for seed in range(3)]
    lru = np.mean([percent(accesses, "lru", [1_000, 2_000], model) for accesses in draws], axis=0)
    belady = np.mean([percent(accesses, "belady", [1_000, 2_000], model) for accesses in draws], axis=0)
    assert 14 < lru[0] < 20 < lru[1] < 31
    assert 33 < belady[0] < belady[1] < 42


def test_belady_needs_what_the_trace_has_and_no_more(conversation: Trace) -> None:
    accesses = cut(sample(conversation, "1/16"))
    reuse = find_reuse(accesses)
    enough = belady_hits(reuse, accesses.distinct)
    counts = [belady_hits(reuse, size).sum() for size in (200, 400, 800, 1_600)]
    assert counts == sorted(counts)
    assert counts[-1] <= enough.sum()

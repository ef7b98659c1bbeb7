"""Layers divided over ranks compute what the whole ones do; attention over pages what dense attention does."""

# ruff: noqa: E402 (what needs torch is imported once it is known to be there)
from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: N812

from runtime.attention.base import AttentionMetadata
from runtime.attention.torch import TorchAttention
from runtime.distributed import Communicator
from runtime.engine.inputs import step_inputs
from runtime.layers.embedding import LmHead, VocabularyEmbedding
from runtime.layers.rope import scale_frequencies
from runtime.models.config import Llama3Scaling
from runtime.scheduler import Batch, Chunk, Sequence, Snapshot
from tests.tiny.serving import on_cpu
from tests.tiny.threads import on_ranks


@given(st.integers(1, 23), st.integers(1, 6), st.booleans())
@settings(max_examples=25)
def test_any_vocabulary_on_any_ranks(vocab_size: int, size: int, tied: bool) -> None:
    whole = torch.randn(vocab_size, 4, generator=torch.Generator().manual_seed(0))
    ids = torch.arange(vocab_size).flip(0)
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))

    def work(communicator: Communicator) -> Any:
        placement = on_cpu(communicator)
        embedding = VocabularyEmbedding(placement, vocab_size, 4)
        head = LmHead(placement, vocab_size, 4, embedding if tied else None)
        for part in [*embedding.parts("embed"), *head.parts("head")]:
            part.target.copy_(whole[part.index])
        return communicator.all_reduce(embedding(ids)), head(x)

    for rows, logits in on_ranks(size, work):
        assert torch.equal(rows, whole[ids])
        assert torch.allclose(logits, x @ whole.T, atol=1e-6)


def test_llama3_scaling_leaves_high_frequencies_and_slows_low_ones() -> None:
    scaling = Llama3Scaling(8.0, 1.0, 4.0, 8192)
    turns = torch.tensor([100.0, 4.0, 2.5, 1.0, 0.01])
    frequencies = turns * 2 * torch.pi / 8192
    ratio = scale_frequencies(frequencies, scaling) / frequencies
    assert ratio.tolist() == pytest.approx([1.0, 1.0, (0.5 + 0.5 / 8), 1 / 8, 1 / 8], rel=1e-4)


class Step:
    """A random step: chunks with a context, and decodes, over a page table without order."""

    def __init__(self, chunks: list[tuple[int, int]], decodes: list[int], page_size: int, seed: int) -> None:
        random = np.random.default_rng(seed)
        self.page_size = page_size
        lengths = [start + count for start, count in chunks] + [position + 1 for position in decodes]
        width = max(-(-length // page_size) for length in lengths)
        pages = random.permutation(width * len(lengths)).astype(np.int32)
        self.table = np.full((len(lengths) + 2, width + 1), -1, np.int32)
        rows = random.permutation(len(self.table))[: len(lengths)]
        self.table[rows, :width] = pages.reshape(len(lengths), width)
        self.slots = len(pages) * page_size
        sequences = []
        for request_id, (row, length) in enumerate(zip(rows.tolist(), lengths, strict=True)):
            ids = random.integers(0, 1000, length + 1).astype(np.int32)
            sequences.append(Sequence(request_id, length, ids, 9))
            sequences[-1].row = row
        parts = [
            Chunk(sequence, start, count, bool(sequence.request_id % 2))
            for sequence, (start, count) in zip(sequences, chunks, strict=False)
        ]
        self.batch = Batch(0, parts, sequences[len(chunks) :], decodes, [], Snapshot(0, 0, 0, 0, 0, 0))

    def tokens(self) -> list[tuple[Sequence, int]]:
        """Every token that it computes: sequence and position."""
        prefill = [(c.sequence, c.start + i) for c in self.batch.chunks for i in range(c.tokens)]
        return prefill + list(zip(self.batch.decodes, self.batch.positions, strict=True))

    def slot(self, sequence: Sequence, position: int) -> int:
        return int(self.table[sequence.row, position // self.page_size]) * self.page_size + position % self.page_size


chunks = st.lists(st.tuples(st.integers(0, 20), st.integers(1, 20)), max_size=3)
steps = st.builds(
    Step,
    chunks,
    st.lists(st.integers(0, 70), min_size=1, max_size=5),
    st.sampled_from([1, 3, 16]),
    st.integers(0, 1000),
)


@given(steps)
def test_step_inputs_are_the_batch_spelt_out(step: Step) -> None:
    inputs = step_inputs(step.batch, step.table, step.page_size)
    tokens = step.tokens()
    assert inputs.positions.tolist() == [position for _, position in tokens]
    assert inputs.slots.tolist() == [step.slot(sequence, position) for sequence, position in tokens]
    prefill = tokens[: len(tokens) - len(step.batch.decodes)]
    assert inputs.tokens.tolist() == [int(sequence.tokens[position]) for sequence, position in prefill]
    sequences = [chunk.sequence for chunk in step.batch.chunks] + step.batch.decodes
    assert [sequences[i] for i in inputs.sampled] == step.batch.sampled()
    assert [tokens[i][0] for i in inputs.sampled_tokens] == step.batch.sampled()
    assert inputs.rows.tolist() == [sequence.row for sequence in sequences]
    # Nothing in it is the scheduler's own memory, which changes while the step runs.
    assert not any(np.shares_memory(getattr(inputs, name), step.table) for name in ("pages", "slots"))


@given(steps, st.sampled_from([(4, 4), (4, 2), (6, 1)]))
@settings(max_examples=40)
def test_attention_over_pages_is_dense_attention(step: Step, heads: tuple[int, int]) -> None:
    width = 8
    generator = torch.Generator().manual_seed(step.slots)
    kv = torch.randn(2, 2, step.slots, heads[1], width, generator=generator)
    inputs = step_inputs(step.batch, step.table, step.page_size)
    slots = torch.from_numpy(inputs.slots)
    q, k, v = (torch.randn(len(slots), n, width, generator=generator) for n in (heads[0], heads[1], heads[1]))
    expected_kv = kv.clone()
    expected_kv[1, 0, slots], expected_kv[1, 1, slots] = k, v

    plan = TorchAttention(kv, step.page_size).plan(
        AttentionMetadata(inputs.query_lengths, inputs.lengths, inputs.pages, inputs.prefills, slots)
    )
    keys, values = plan.kv(1)
    keys[plan.slots], values[plan.slots] = k, v
    out = plan.attend(1, q)

    assert torch.equal(kv, expected_kv)  # layer 1 has the new tokens, layer 0 is as it was
    for index, (sequence, position) in enumerate(step.tokens()):
        seen = [step.slot(sequence, p) for p in range(position + 1)]
        keys, values = (kv[1, i, seen].repeat_interleave(heads[0] // heads[1], 1).transpose(0, 1) for i in (0, 1))
        weights = F.softmax(keys @ q[index].unsqueeze(-1) / width**0.5, dim=1)
        assert torch.allclose(out[index], (weights * values).sum(1), atol=1e-5)

"""Captured decodes of few sequences, a layer's attention in one kernel or several: which, and both are right."""

# ruff: noqa: E402 (what needs a GPU is imported once it is known to be there)
from __future__ import annotations

from functools import partial

import numpy as np
import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)

from runtime.attention.choose import AttentionChoice, gpu_attention
from runtime.engine import graphs as engine_graphs
from runtime.engine.graphs import DecodeGraphs
from runtime.engine.inputs import StepInputs
from runtime.kernels.fp8 import FP8
from runtime.scheduler.graph_sizes import FUSED_SEQUENCES, decodes_fused
from tests.gpu.small import Small, small

COLUMN_TOKENS = 1024
LITTLE_KV = 1000  # tokens that decodes attend to in one kernel a layer, in a test of that
ALL = float("inf")
REPEATS = 50
TRITON = AttentionChoice("triton", "triton")
AUTO = AttentionChoice("flashinfer", "flashinfer", small_decodes="triton")


class Graphs:
    """The decodes of a model, one kernel a layer or several, over one pool whose KV is put back before each run."""

    def __init__(
        self,
        model: Small,
        page_size: int,
        monkeypatch: pytest.MonkeyPatch,
        kv_dtype: torch.dtype = torch.bfloat16,
        attention: AttentionChoice = TRITON,
    ) -> None:
        self.model = model  # graphs read its weights where they are, and do not keep them
        self.page_size, self.monkeypatch = page_size, monkeypatch
        columns = COLUMN_TOKENS // page_size
        pages = FUSED_SEQUENCES * columns
        order = np.random.default_rng(page_size).permutation(pages).astype(np.int32)
        self.table = order.reshape(FUSED_SEQUENCES, columns)
        config = model.config
        shape = (config.num_hidden_layers, 2, (pages + 1) * page_size, config.num_key_value_heads, config.head_dim)
        generator = torch.Generator("cuda").manual_seed(page_size)
        before = torch.randn(shape, generator=generator, device="cuda")
        before[:, :, -page_size:] = torch.nan  # padding's page
        self.before = before.to(kv_dtype)
        self.pool = self.before.clone()
        self.last_token = torch.arange(FUSED_SEQUENCES + 1, device="cuda") * 7  # graphs read it where it is
        with torch.inference_mode():
            self.made = DecodeGraphs(
                model.half,
                gpu_attention(attention, self.pool, page_size, config.num_attention_heads),
                self.last_token,
                largest=FUSED_SEQUENCES,
                columns=columns,
                pool=torch.cuda.graph_pool_handle(),
            )

    @torch.inference_mode()
    def run(self, most_tokens: float, positions: list[int]) -> torch.Tensor:
        """Hidden states of sequences that decode their token at a position.

        Args:
            most_tokens: Of KV, that one kernel a layer attends to.
            positions: Of each.
        """
        at = np.array(positions)
        rows = np.arange(len(at))
        pages = self.table[: len(at)]
        slots = pages[rows, at // self.page_size].astype(np.int64) * self.page_size + at % self.page_size
        inputs = StepInputs(rows[:0], at, slots, rows, np.ones(len(at), np.int64), at + 1, pages, 0, rows, rows)
        rule = partial(decodes_fused, most_bytes=most_tokens * self.pool[0, :, 0].nbytes)
        with self.monkeypatch.context() as patch:
            patch.setattr(engine_graphs, "decodes_fused", rule)
            hidden, _ = self.made.run(inputs)
        return hidden.clone()

    def again(self) -> None:
        self.pool.copy_(self.before)


# The one kernel attends to the step's own token as it is before it is rounded to the KV's dtype.
@pytest.mark.parametrize(
    ("kv_heads", "page_size", "kv_dtype", "most_error"),
    [(4, 16, torch.bfloat16, 3e-2), (2, 1, torch.bfloat16, 3e-2), (1, 64, torch.bfloat16, 3e-2), (4, 16, FP8, 0.25)],
    ids=str,
)
def test_one_kernel_or_three(
    kv_heads: int, page_size: int, kv_dtype: torch.dtype, most_error: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs = Graphs(small(kv_heads), page_size, monkeypatch, kv_dtype)
    lengths = np.random.default_rng(0)
    for batch in (1, 2, 3, 4, 7, FUSED_SEQUENCES):
        for most in (2, 70, COLUMN_TOKENS):
            positions = lengths.integers(0, most, batch).tolist()
            found = []
            for most_tokens in (ALL, 0):
                graphs.again()
                found.append((graphs.run(most_tokens, positions).float(), graphs.pool.float()))
            for fused, three in zip(*found, strict=True):
                error = (fused - three).nan_to_num().norm() / three.nan_to_num().norm()
                assert torch.equal(fused.isnan(), three.isnan())
                assert error < most_error, (batch, positions, error)  # of two roundings


@pytest.mark.parametrize("attention", [TRITON, AUTO], ids=["triton", "flashinfer"])
def test_the_kv_of_a_step_decides_and_both_are_right(
    attention: AttentionChoice, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "flashinfer" in attention:
        pytest.importorskip("flashinfer", reason="needs FlashInfer")
    graphs = Graphs(small(4), 16, monkeypatch, attention=attention)
    for batch in (1, 2, 3, 4, 7, FUSED_SEQUENCES):
        for tokens in (LITTLE_KV, LITTLE_KV + 1):  # of KV in all, the step's own included
            positions = [tokens // batch - 1 + (row < tokens % batch) for row in range(batch)]
            found = []
            for most_tokens in (LITTLE_KV, ALL, 0):
                graphs.again()
                found.append(graphs.run(most_tokens, positions))
            chosen, fused, several = found
            assert torch.equal(chosen, fused if tokens == LITTLE_KV else several), (batch, tokens)
            error = (fused.float() - several.float()).norm() / several.float().norm()
            assert 0 < error < 3e-2, (batch, tokens, error)  # two ways, of two roundings


def test_the_same_bits_whatever_ran_before(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = Graphs(small(4), 16, monkeypatch)
    lengths = np.random.default_rng(1)
    asked = [lengths.integers(0, COLUMN_TOKENS, batch).tolist() for batch in (1, FUSED_SEQUENCES, 2, 7, 1, 5)]
    first: list[torch.Tensor] = []
    for _ in range(REPEATS):
        for step, positions in enumerate(asked):
            graphs.again()
            hidden = graphs.run(ALL, positions)
            if len(first) == step:
                first.append(hidden)
            assert torch.equal(hidden, first[step])


def test_each_step_reads_what_the_one_before_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many steps in a row, the host never waiting between them: KV is read before the kernel before has ended."""
    graphs = Graphs(small(4), 16, monkeypatch)
    found = []
    for most_tokens in (ALL, 0):
        graphs.pool.fill_(torch.nan)  # what no step wrote may not be read
        found.append(torch.stack([graphs.run(most_tokens, [step, step, step]) for step in range(200)]).float())
    assert not found[0].isnan().any()
    assert (found[0] - found[1]).norm() / found[1].norm() < 3e-2

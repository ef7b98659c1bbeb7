"""Captured decodes of few sequences, a layer's attention in one kernel: against three kernels, and again and again."""

# ruff: noqa: E402 (what needs a GPU is imported once it is known to be there)
from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)

from runtime.attention import triton as triton_attention
from runtime.attention.triton import FUSED_SEQUENCES, TritonAttention
from runtime.engine.graphs import DecodeGraphs
from runtime.engine.inputs import StepInputs
from runtime.kernels.fp8 import FP8
from tests.gpu.small import Small, small

COLUMN_TOKENS = 1024
REPEATS = 50


class Graphs:
    """The decodes of a model, one kernel a layer or three, over one pool whose KV is put back before each run."""

    def __init__(
        self,
        model: Small,
        page_size: int,
        monkeypatch: pytest.MonkeyPatch,
        kv_dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        self.page_size, self.config = page_size, model.config
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
        self.made: list[Any] = []
        for most in (FUSED_SEQUENCES, 0):
            with monkeypatch.context() as patch, torch.inference_mode():
                patch.setattr(triton_attention, "FUSED_SEQUENCES", most)
                attention = TritonAttention(self.pool, page_size, config.num_attention_heads)
                memory = torch.cuda.graph_pool_handle()
                self.made.append(
                    DecodeGraphs(
                        model.half, attention, self.last_token, largest=FUSED_SEQUENCES, columns=columns, pool=memory
                    )
                )

    @torch.inference_mode()
    def run(self, made: Any, positions: list[int]) -> torch.Tensor:
        """Hidden states of sequences that decode their token at a position."""
        at = np.array(positions)
        rows = np.arange(len(at))
        pages = self.table[: len(at)]
        slots = pages[rows, at // self.page_size].astype(np.int64) * self.page_size + at % self.page_size
        inputs = StepInputs(rows[:0], at, slots, rows, np.ones(len(at), np.int64), at + 1, pages, 0, rows, rows)
        hidden, _ = made.run(inputs)
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
            for made in graphs.made:
                graphs.again()
                found.append((graphs.run(made, positions).float(), graphs.pool.float()))
            for fused, three in zip(*found, strict=True):
                error = (fused - three).nan_to_num().norm() / three.nan_to_num().norm()
                assert torch.equal(fused.isnan(), three.isnan())
                assert error < most_error, (batch, positions, error)  # of two roundings


def test_the_same_bits_whatever_ran_before(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs = Graphs(small(4), 16, monkeypatch)
    fused, lengths = graphs.made[0], np.random.default_rng(1)
    asked = [lengths.integers(0, COLUMN_TOKENS, batch).tolist() for batch in (1, FUSED_SEQUENCES, 2, 7, 1, 5)]
    first: list[torch.Tensor] = []
    for _ in range(REPEATS):
        for step, positions in enumerate(asked):
            graphs.again()
            hidden = graphs.run(fused, positions)
            if len(first) == step:
                first.append(hidden)
            assert torch.equal(hidden, first[step])


def test_each_step_reads_what_the_one_before_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many steps in a row, the host never waiting between them: KV is read before the kernel before has ended."""
    graphs = Graphs(small(4), 16, monkeypatch)
    found = []
    for made in graphs.made:
        graphs.pool.fill_(torch.nan)  # what no step wrote may not be read
        found.append(torch.stack([graphs.run(made, [step, step, step]) for step in range(200)]).float())
    assert not found[0].isnan().any()
    assert (found[0] - found[1]).norm() / found[1].norm() < 3e-2

"""Decode attention in one kernel is the reference's: on the GPU where there is one, else in Triton's interpreter."""

# ruff: noqa: E402 (what needs Triton is imported once it is known to be there)
from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from tests.tiny.interpreter import DEVICE, DTYPE, ON_GPU

# isort: split
from runtime.attention.base import AttentionMetadata
from runtime.attention.small_decodes import SmallDecodes
from runtime.attention.split import SplitAttention
from runtime.attention.torch import TorchAttention
from runtime.attention.triton import FusedGraphStep, TritonAttention
from runtime.kernels import HeadNorms, TorchKernels
from runtime.kernels.fp8 import FP8
from runtime.scheduler.graph_sizes import FUSED_SEQUENCES

EPS = 1e-6
LAYERS = 2


class Decodes:
    """Sequences with KV in a pool that is NaN elsewhere, and steps of them by the kernel and by the reference.

    Args:
        lengths: Tokens of each before the first step.
        room: Tokens that each may become longer.
    """

    def __init__(
        self,
        lengths: list[int],
        *,
        page_size: int = 16,
        heads: tuple[int, int] = (4, 2),
        head_dim: int = 32,
        normed: bool = True,
        room: int = 1,
        kv_dtype: torch.dtype = DTYPE,
    ) -> None:
        self.generator = torch.Generator().manual_seed(page_size + head_dim + len(lengths))
        self.lengths = np.array(lengths, np.int64)
        self.page_size, self.heads, self.head_dim = page_size, heads, head_dim
        columns = -(-(self.lengths + room) // page_size)
        order = np.random.default_rng(page_size).permutation(int(columns.sum()) + 3)
        self.pages = np.full((len(lengths), int(columns.max()) + 1), 1 << 30, np.int32)
        kv = torch.full((LAYERS, 2, len(order) * page_size, heads[1], head_dim), torch.nan)
        for row, (count, length) in enumerate(zip(columns.tolist(), lengths, strict=True)):
            self.pages[row, :count], order = order[:count], order[count:]
            slots = (self.pages[row, :count, None].astype(np.int64) * page_size + np.arange(page_size)).ravel()[:length]
            kv[:, :, slots] = torch.randn(LAYERS, 2, length, heads[1], head_dim, generator=self.generator)
        self.kv = kv.to(kv_dtype).to(DEVICE)
        weights = (1 + torch.randn(2, head_dim, generator=self.generator) / 4).to(DEVICE, DTYPE)
        self.norms = HeadNorms(weights[0], weights[1], EPS) if normed else None
        self.attention = TritonAttention(self.kv, page_size, heads[0])
        self.slots = torch.zeros(len(lengths), dtype=torch.int64, device=DEVICE)
        entries = self.attention.table_entries(len(lengths), self.pages.shape[1])
        tables = torch.full((entries,), -1, dtype=torch.int32, device=DEVICE)
        self.step = self.attention.fused_step(len(lengths), self.slots, tables)

    def plan(self) -> None:
        """Each sequence becomes a token longer."""
        position = self.lengths.copy()
        self.lengths += 1
        rows = np.arange(len(position))
        slots = self.pages[rows, position // self.page_size].astype(np.int64) * self.page_size
        self.slots.copy_(torch.from_numpy(slots + position % self.page_size))
        self.step.plan(self.lengths, self.pages)
        self.qkv = self.noise(len(position), self.heads[0] + 2 * self.heads[1], self.head_dim)
        angles = torch.rand(len(position), 1, self.head_dim // 2, generator=self.generator) * 6
        self.cos, self.sin = angles.cos().to(DEVICE, DTYPE), angles.sin().to(DEVICE, DTYPE)

    def noise(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=self.generator).to(DEVICE, DTYPE)

    def found(self, layer: int) -> torch.Tensor:
        return self.step.rotate_and_attend(layer, self.qkv, self.norms, self.cos, self.sin, TorchKernels())

    def expected(self, layer: int) -> torch.Tensor:
        """In float32, over a copy of the pool."""
        kernels, kv = TorchKernels(), self.kv.float()
        exact = None if self.norms is None else HeadNorms(self.norms.q.float(), self.norms.k.float(), EPS)
        counts = np.ones_like(self.lengths)
        metadata = AttentionMetadata(counts, self.lengths, self.pages, 0, self.slots)
        qkv, cos, sin = (x.float() for x in (self.qkv, self.cos, self.sin))
        q = kernels.rotate_and_store(qkv, exact, cos, sin, kv[layer, 0], kv[layer, 1], self.slots)
        reference = TorchAttention(kv.nan_to_num(), self.page_size)
        self.stored = kv[layer]
        return reference.plan(metadata).attend(layer, q)

    def check(self, layer: int) -> torch.Tensor:
        """A layer's attention and what it stores are right; returns the first."""
        expected = self.expected(layer)
        before = self.kv.clone()
        found = self.found(layer)
        assert found.dtype == DTYPE
        assert found.is_contiguous()
        assert difference(found, expected) < (1e-2 if ON_GPU else 3e-3)  # never true of NaN
        written = torch.zeros(self.kv.shape[2], dtype=torch.bool, device=DEVICE)
        written[self.slots] = True
        stored = self.kv[layer].float()
        assert difference(stored[:, written], self.stored[:, written]) < 1e-2
        untouched = self.kv.view(torch.uint8) == before.view(torch.uint8)  # NaN too
        assert untouched[:, :, ~written].all()
        assert untouched[[other for other in range(LAYERS) if other != layer]].all()
        assert not self.step.arrived.any()
        return found


def difference(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.float() - expected).norm() / expected.norm())


@pytest.mark.parametrize("page_size", [1, 16, 64])
@pytest.mark.parametrize("lengths", [[0], [300], [0, 1, 62, 63, 64, 65, 200]], ids=str)
def test_pages_of_any_size(page_size: int, lengths: list[int]) -> None:
    decodes = Decodes(lengths, page_size=page_size)
    decodes.plan()
    decodes.check(1)


@pytest.mark.parametrize("heads", [(1, 1), (8, 1), (6, 2), (5, 1), (32, 1), (4, 4)], ids=str)
@pytest.mark.parametrize("normed", [True, False])
def test_any_group_of_heads(heads: tuple[int, int], normed: bool) -> None:
    decodes = Decodes([9, 150], heads=heads, head_dim=16, normed=normed)
    decodes.plan()
    decodes.check(0)


@pytest.mark.parametrize("head_dim", [24, 64, 80, 96, 128, 256])
def test_any_width_of_heads(head_dim: int) -> None:
    decodes = Decodes([9, 150], head_dim=head_dim)
    decodes.plan()
    decodes.check(1)


@pytest.mark.parametrize("head_dim", [32, 128])
def test_fp8_kv(head_dim: int) -> None:
    """Numbers that fp8 can hold, so that the reference need not round; every one of the step's own token counts."""
    decodes = Decodes([0, 3, 150], head_dim=head_dim, normed=False, kv_dtype=FP8)
    decodes.plan()
    decodes.qkv = decodes.qkv.to(FP8).to(DTYPE)
    decodes.cos, decodes.sin = torch.ones_like(decodes.cos), torch.zeros_like(decodes.sin)
    found = decodes.check(1)
    values = decodes.qkv[0, -2:].float().repeat_interleave(2, dim=0)
    assert torch.equal(found[0].float(), values), "the first sequence attends to itself alone"


def test_a_token_is_rounded_where_it_is_stored() -> None:
    decodes = Decodes([0], kv_dtype=FP8)
    decodes.plan()
    found = decodes.found(0)
    assert torch.equal(found[0].float(), decodes.qkv[0, -2:].float().repeat_interleave(2, dim=0))
    same = decodes.kv[0, 1, decodes.slots[0]].float() == decodes.qkv[0, -2:].to(FP8).float()
    assert same.all() if ON_GPU else same.float().mean() > 0.9  # Triton's interpreter loses what a rounding carries


@given(
    lengths=st.lists(st.integers(0, 300), min_size=1, max_size=3),
    page_size=st.sampled_from([1, 4, 16, 48]),
    heads=st.sampled_from([(4, 1), (3, 1), (2, 2)]),
)
@settings(max_examples=10, deadline=None)
def test_steps_in_a_row(lengths: list[int], page_size: int, heads: tuple[int, int]) -> None:
    """Each attends to what those before it stored, and leaves the counters as it found them."""
    decodes = Decodes(lengths, page_size=page_size, heads=heads, head_dim=16, room=2)
    for _ in range(2):
        decodes.plan()
        for layer in range(LAYERS):
            decodes.check(layer)


def test_the_same_bits_every_time() -> None:
    decodes = Decodes([70, 200, 0], head_dim=16)
    decodes.plan()
    first = decodes.check(0)
    for _ in range(20 if ON_GPU else 2):
        assert torch.equal(decodes.found(0), first)


def test_a_shorter_step_in_the_tables_of_a_longer_one() -> None:
    """Programs beyond the step's parts leave everything alone."""
    decodes = Decodes([600, 600, 600], room=2)
    decodes.plan()
    decodes.check(0)
    decodes.lengths[:] = 2, 0, 70
    decodes.plan()
    decodes.check(1)


def test_padding_shares_a_slot() -> None:
    """Sequences of no request store to one slot, and attend to themselves alone."""
    decodes = Decodes([100, 0, 0])
    decodes.pages[2] = decodes.pages[1]
    decodes.plan()
    found, expected = decodes.found(0), decodes.expected(0)
    assert difference(found[:1], expected[:1]) < 1e-2
    values = decodes.qkv[:, -2:].float().repeat_interleave(2, dim=1)
    assert difference(found[1:], values[1:]) < 1e-2


def test_fused_steps_are_one_backends_and_all_others_the_others() -> None:
    pool = torch.zeros(1, 2, 64, 2, 16, dtype=DTYPE, device=DEVICE)
    fused, plain = TritonAttention(pool, 16, 4), TritonAttention(pool, 16, 4)
    attention = SmallDecodes(fused, plain)
    entries = attention.table_entries(FUSED_SEQUENCES + 1, 4)
    assert entries >= fused.table_entries(FUSED_SEQUENCES, 4)
    slots, tables = (torch.zeros(count, dtype=torch.int64, device=DEVICE) for count in (FUSED_SEQUENCES + 1, entries))
    for split in (attention, SplitAttention(plain, attention)):
        small = split.fused_step(FUSED_SEQUENCES, slots[:-1], tables.int())
        assert isinstance(small, FusedGraphStep)
        assert small._attention is fused
        for size in (FUSED_SEQUENCES, FUSED_SEQUENCES + 1):
            step = split.graph_step(size, slots[:size], tables.int())
            assert not isinstance(step, FusedGraphStep)
            assert step._attention is plain  # type: ignore[attr-defined]

"""Paged attention on the GPU against the reference in float32, by every backend and in CUDA graphs."""

# ruff: noqa: E402 (what needs a GPU is imported once it is known to be there)
from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import numpy as np
import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)

from runtime.attention.base import AttentionMetadata, GpuAttention
from runtime.attention.choose import AttentionChoice, choose_attention, gpu_attention
from runtime.attention.torch import TorchAttention
from runtime.distributed import SingleCommunicator
from runtime.layers.parts import Placement

HEADS, KV_HEADS, HEAD_DIM = 8, 2, 128
SLOTS = 8192
FP8 = torch.float8_e4m3fn
needs_flashinfer = pytest.mark.skipif(find_spec("flashinfer") is None, reason="needs FlashInfer")
BACKENDS = [
    pytest.param(AttentionChoice("flashinfer", "flashinfer"), marks=needs_flashinfer, id="flashinfer"),
    pytest.param(AttentionChoice("triton", "triton"), id="triton"),
    pytest.param(AttentionChoice("flashinfer", "triton"), marks=needs_flashinfer, id="flashinfer+triton"),
    pytest.param(AttentionChoice("triton", "flashinfer"), marks=needs_flashinfer, id="triton+flashinfer"),
    pytest.param(AttentionChoice("flashinfer", "flashinfer", "triton"), marks=needs_flashinfer, id="small_by_triton"),
]
CHUNKS_AND_DECODES = [
    ([(0, 1)], []),  # (tokens before, tokens of the chunk)
    ([(0, 300), (5, 77), (512, 64), (0, 1)], []),
    ([], [1, 2, 63, 64, 65, 700]),
    ([(0, 130), (64, 3)], [1, 17, 400]),
]


class Step:
    """A step over a KV pool in which every slot that no sequence has is NaN."""

    def __init__(
        self,
        chunks: list[tuple[int, int]],
        decodes: list[int],
        page_size: int,
        *,
        heads: tuple[int, int] = (HEADS, KV_HEADS),
        head_dim: int = HEAD_DIM,
        dtype: torch.dtype = torch.bfloat16,
        kv_dtype: torch.dtype | None = None,
    ) -> None:
        generator = torch.Generator("cuda").manual_seed(page_size + len(decodes))
        self.page_size, self.heads = page_size, heads[0]
        self.queries = np.array([count for _, count in chunks] + [1] * len(decodes))
        self.lengths = np.array([before + count for before, count in chunks] + decodes)
        counts = -(-self.lengths // page_size)
        order = np.random.default_rng(len(decodes)).permutation(SLOTS // page_size)
        self.pages = np.zeros((len(counts), counts.max()), np.int32)
        self.pages[np.arange(counts.max()) < counts[:, None]] = order[: counts.sum()]
        kv = torch.full((2, 2, SLOTS, heads[1], head_dim), torch.nan, device="cuda")
        for row, length in zip(self.pages, self.lengths.tolist(), strict=True):
            slots = (row[:, None] * page_size + np.arange(page_size)).ravel()[:length]
            kv[:, :, slots] = torch.randn(2, 2, length, heads[1], head_dim, device="cuda", generator=generator)
        self.kv = kv.to(kv_dtype or dtype)
        tokens = int(self.queries.sum())
        beside = torch.randn(tokens, heads[0] + 2 * heads[1], head_dim, device="cuda", generator=generator)
        self.q = beside.to(dtype)[:, : heads[0]]
        self.slots = torch.zeros(tokens, dtype=torch.int64, device="cuda")
        self.prefills = len(chunks)

    def metadata(self) -> AttentionMetadata:
        return AttentionMetadata(self.queries, self.lengths, self.pages, self.prefills, self.slots)

    def expected(self) -> torch.Tensor:
        reference = TorchAttention(self.kv.float().nan_to_num(), self.page_size)
        return reference.plan(self.metadata()).attend(1, self.q.float())

    def found(self, choice: AttentionChoice) -> torch.Tensor:
        attention = gpu_attention(choice, self.kv, self.page_size, self.heads)
        return attention.plan(self.metadata()).attend(1, self.q)


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    error = (found.float() - expected).norm() / expected.norm()
    assert error < 1e-2, error  # never true of NaN


@pytest.mark.parametrize("choice", BACKENDS)
@pytest.mark.parametrize("page_size", [1, 16, 64])
@pytest.mark.parametrize(("chunks", "decodes"), CHUNKS_AND_DECODES)
def test_paged_attention(
    choice: AttentionChoice, page_size: int, chunks: list[tuple[int, int]], decodes: list[int]
) -> None:
    step = Step(chunks, decodes, page_size)
    assert_close(step.found(choice), step.expected())


@pytest.mark.parametrize("kind", [torch.float16, FP8], ids=["fp16", "fp8_kv"])
@pytest.mark.parametrize("page_size", [1, 16])
@pytest.mark.parametrize(("chunks", "decodes"), CHUNKS_AND_DECODES)
def test_other_dtypes_by_triton(
    kind: torch.dtype, page_size: int, chunks: list[tuple[int, int]], decodes: list[int]
) -> None:
    dtypes = {"kv_dtype": FP8} if kind == FP8 else {"dtype": kind}
    step = Step(chunks, decodes, page_size, **dtypes)
    assert_close(step.found(AttentionChoice("triton", "triton")), step.expected())


@pytest.mark.parametrize(
    ("heads", "head_dim"), [((8, 8), 64), ((14, 2), 64), ((32, 2), 96), ((10, 2), 128), ((8, 1), 256)], ids=str
)
def test_other_shapes_by_triton(heads: tuple[int, int], head_dim: int) -> None:
    step = Step([(0, 130), (64, 3)], [1, 17, 400], 16, heads=heads, head_dim=head_dim)
    assert_close(step.found(AttentionChoice("triton", "triton")), step.expected())


def captured_decode(choice: AttentionChoice, steps: list[Step], size: int) -> Iterator[torch.Tensor]:
    """What one graph gives for each of the steps, in turn; it is captured when the second is planned."""
    first = steps[1]
    pool = torch.empty_like(first.kv)
    attention: GpuAttention = gpu_attention(choice, pool, first.page_size, HEADS)
    columns = max(step.pages.shape[1] for step in steps)
    tables = torch.zeros(attention.table_entries(size, columns), dtype=torch.int32, device="cuda")
    q = torch.empty(size, HEADS, HEAD_DIM, dtype=torch.bfloat16, device="cuda")
    captured = attention.graph_step(size, first.slots, tables)
    captured.plan(first.lengths, first.pages)
    pool.copy_(first.kv)
    captured.attend(1, q)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = captured.attend(1, q)
    for step in steps:
        pool.copy_(step.kv)
        q.copy_(step.q)
        captured.plan(step.lengths, step.pages)
        out.fill_(torch.nan)
        graph.replay()
        yield out


@pytest.mark.parametrize("choice", BACKENDS[:2])
@pytest.mark.parametrize("page_size", [1, 16])
def test_a_captured_decode_is_planned_anew(choice: AttentionChoice, page_size: int) -> None:
    lengths = ([700, 3, 64, 65, 128], [1] * 5, [9, 300, 1000, 64, 2])
    steps = [Step([], one, page_size) for one in lengths]
    for step, found in zip(steps, captured_decode(choice, steps, 5), strict=True):
        assert_close(found, step.expected())


@needs_flashinfer
@pytest.mark.parametrize("sequences", [96, 104, 130, 150])
@pytest.mark.parametrize("page_size", [1, 16])
def test_kv_is_cut_into_more_parts_than_run_at_once(sequences: int, page_size: int) -> None:
    """Captured or not, planned anew for contexts of any length; a GPU of 132 processors attends for 132 at once."""
    choice = AttentionChoice("flashinfer", "flashinfer")
    random = np.random.default_rng(sequences)
    lengths = [
        [2000] + [20] * (sequences - 1),
        [1] * sequences,
        [48] * sequences,
        random.integers(1, 80, sequences).tolist(),
    ]
    steps = [Step([], one, page_size) for one in lengths]
    replays = captured_decode(choice, steps, sequences)
    for step, replayed in zip(steps, replays, strict=True):
        expected = step.expected()
        assert_close(replayed, expected)
        assert_close(step.found(choice), expected)


def test_auto_takes_what_can_run_at_once() -> None:
    half = Placement(SingleCommunicator(), torch.device("cuda"), torch.bfloat16)
    fp8 = Placement(SingleCommunicator(), torch.device("cuda"), torch.bfloat16, fp8_kv=True)
    assert choose_attention("auto", fp8, 128) == AttentionChoice("triton", "triton")
    assert choose_attention("auto", half, 48) == AttentionChoice("triton", "triton")  # nobody compiles that ahead

"""FlashInfer's paged attention against the reference in float32."""

# ruff: noqa: E402 (what needs a GPU is imported once it is known to be there)
from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)
pytest.importorskip("flashinfer", reason="needs FlashInfer")

from runtime.attention.base import AttentionMetadata
from runtime.attention.flashinfer import FlashInferAttention
from runtime.attention.torch import TorchAttention

HEADS, KV_HEADS, HEAD_DIM = 8, 2, 128
SLOTS = 8192


@pytest.mark.parametrize("page_size", [1, 16, 64])
@pytest.mark.parametrize(
    ("chunks", "decodes"),
    [
        ([(0, 1)], []),  # (tokens before, tokens of the chunk)
        ([(0, 300), (5, 77), (512, 64), (0, 1)], []),
        ([], [1, 2, 63, 64, 65, 700]),
        ([(0, 130), (64, 3)], [1, 17, 400]),
    ],
)
def test_paged_attention(page_size: int, chunks: list[tuple[int, int]], decodes: list[int]) -> None:
    generator = torch.Generator("cuda").manual_seed(0)
    kv = torch.randn(2, 2, SLOTS, KV_HEADS, HEAD_DIM, device="cuda", generator=generator).bfloat16()
    queries = np.array([count for _, count in chunks] + [1] * len(decodes))
    lengths = np.array([before + count for before, count in chunks] + decodes)
    columns = -(-lengths.max() // page_size)
    order = np.random.default_rng(0).permutation(SLOTS // page_size)
    pages = order[: len(lengths) * columns].reshape(len(lengths), columns).astype(np.int32)
    tokens = int(queries.sum())
    slots = torch.zeros(tokens, dtype=torch.int64, device="cuda")
    q = torch.randn(tokens, HEADS + 4, HEAD_DIM, device="cuda", generator=generator).bfloat16()[:, :HEADS]
    metadata = AttentionMetadata(queries, lengths, pages, len(chunks), slots)
    expected = TorchAttention(kv.float(), page_size).plan(metadata).attend(1, q.float())
    found = FlashInferAttention(kv, page_size, HEADS).plan(metadata).attend(1, q)
    assert torch.allclose(found.float(), expected, atol=1e-2)

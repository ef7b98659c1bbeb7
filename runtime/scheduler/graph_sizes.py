"""Which steps an engine replays as CUDA graphs, of what size, by which kernels: for the engine, and for its models."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

# Tokens of the steps with chunks that are captured. Beyond, the device takes longer than the host to launch them.
CHUNKED_SIZES: tuple[int, ...] = (16, 32, 64, 128, 192, 256, 384, 512, 640, 768, 896, 1024)
MOST_CHUNKS = 32  # in such a step
LONGEST_CHUNKED = 8192  # tokens that its chunks may attend to: a graph does not divide that over the GPU

FUSED_SEQUENCES = 8
"""Of the largest captured decode of which a layer may rotate, store and attend in one kernel. Steps of Qwen3-8B on an
H200, contexts of 576, against FlashInfer's kernels: 1.05 times as fast at batch 1, 1.04 at 4, 1.03 at 8, 0.98 at 16."""

FUSED_KV_BYTES = 24 << 20
"""Of a layer's KV on one GPU, the most that such a decode reads: the one kernel saves launches, but reads KV at 1.75
TB/s where FlashInfer's reach 3.0. Steps of Qwen3-8B (4,096 bytes a token) on an H100, of 1 to 8 sequences, are so
many times as fast as FlashInfer's: 1.03 with 1,024 tokens in all, 0.99 to 1.02 with 4,096 and 6,144, 0.97 to 0.99 with
8,192, 0.95 to 0.97 with 12,288, 0.87 to 0.89 with 32,768; on an H200 1.04, 0.97 to 1.01, 0.94 to 0.96, 0.91 to 0.93,
0.80 to 0.81."""


def ladder(largest: int) -> list[int]:
    """Batch sizes of decodes to capture: 1, 2, 4, then every eighth up to ``largest``, and ``largest`` itself."""
    return sorted({size for size in (1, 2, 4, *range(8, largest, 8)) if size < largest} | {largest})


def decodes_fused(sequences: Any, context: Any, token_bytes: Any, most_bytes: Any = FUSED_KV_BYTES) -> Any:
    """Whether a captured decode attends in one kernel a layer, where it can; of numbers, or of arrays of them.

    Args:
        sequences: That decode, padding or not: no graph of more holds :data:`FUSED_SEQUENCES` or fewer.
        context: Tokens of KV that they read, all together, the step's own included.
        token_bytes: Of one token's keys and values of a layer, on one GPU.
        most_bytes: Of a layer's KV; another engine, or an older one, has its own limit.
    """
    return (sequences <= FUSED_SEQUENCES) & (context * token_bytes <= most_bytes)


def chunks_captured(chunks: Any, tokens: Any, longest: Any) -> Any:
    """Whether a graph runs a step with chunks; of numbers, or of arrays of them.

    Args:
        chunks: How many.
        tokens: Of the step, those of decodes beside the chunks included, padding or not.
        longest: See :func:`chunked_size`.
    """
    return (tokens <= max(CHUNKED_SIZES, default=0)) & (chunks <= MOST_CHUNKS) & (longest <= LONGEST_CHUNKED)


def chunked_size(chunks: int, chunk_tokens: int, longest: int, decodes: int) -> int:
    """Tokens of the graph that runs a step with chunks, padding included; 0 where none does.

    Args:
        chunks: How many.
        chunk_tokens: That they compute, all together.
        longest: Tokens that the longest of them attends to: its context and itself.
        decodes: Sequences that decode beside them.
    """
    tokens = chunk_tokens + decodes
    if not chunks_captured(chunks, tokens, longest):
        return 0
    return CHUNKED_SIZES[bisect_left(CHUNKED_SIZES, tokens)]

"""Which steps an engine replays as CUDA graphs, and of what size: for the one that captures, and for its models."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any

# Tokens of the steps with chunks that are captured. Beyond, the device takes longer than the host to launch them.
CHUNKED_SIZES: tuple[int, ...] = (16, 32, 64, 128, 192, 256, 384, 512, 640, 768, 896, 1024)
MOST_CHUNKS = 32  # in such a step
LONGEST_CHUNKED = 8192  # tokens that its chunks may attend to: a graph does not divide that over the GPU


def ladder(largest: int) -> list[int]:
    """Batch sizes of decodes to capture: 1, 2, 4, then every eighth up to ``largest``, and ``largest`` itself."""
    return sorted({size for size in (1, 2, 4, *range(8, largest, 8)) if size < largest} | {largest})


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

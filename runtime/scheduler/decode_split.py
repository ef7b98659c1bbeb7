"""How FlashInfer shares a decode's KV out over a GPU: for the engine, and for its models."""

from __future__ import annotations

BLOCKS_A_PROCESSOR = 2
"""Thread blocks of its kernel on tensor cores that a processor runs at once: it plans for as many."""

WORKSPACE_BYTES_A_HEAD = 8 << 20
"""For partial results, for each query head: 128 MiB in all are too few for 64 of them."""

MOST_PARTS = WORKSPACE_BYTES_A_HEAD // (16 * (128 + 1) * 4)
"""Of a decode that there is room for: a part's result for a head is 16 queries of 128 numbers, and a sum of each."""

_TENSOR_CORE_GROUP = 4  # query heads to a KV head: with fewer the tensor cores would idle


def decodes_on_tensor_cores(heads: int, kv_heads: int) -> bool:
    """Which of its two kernels FlashInfer decodes by, for so many query heads and KV heads of a GPU."""
    return heads // kv_heads >= _TENSOR_CORE_GROUP


def parts_at_once(processors: int, kv_heads: int) -> int:
    """Sequences, or parts of them, that the kernel on tensor cores attends for at once."""
    return max(1, BLOCKS_A_PROCESSOR * processors // kv_heads)


def decode_parts(sequences: int, at_once: int) -> int:
    """Parts that the KV of a decode is cut into at the most, by the kernel on tensor cores.

    FlashInfer cuts into as many as run at once. Of that many sequences or more, one that is longer than the others is
    then left alone in the end, on a few processors. Here some more parts are cut, but fewer than two a sequence, so
    that contexts of one length stay whole. Attention of 64 sequences of Qwen3-8B on an H100, the longest of 2,300
    tokens in the mean, 2, 4 and 20 times as long: 1.06, 1.16 and 3.3 times as fast; all of one length: as before.

    Args:
        sequences: Of the decode, those that only pad a CUDA graph included.
        at_once: See :func:`parts_at_once`.
    """
    free = min(sequences - 1, at_once)
    return at_once if 4 * sequences <= 3 * at_once else max(min(sequences + free, MOST_PARTS), sequences)

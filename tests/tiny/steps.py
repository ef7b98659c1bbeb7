"""Steps by the numbers of their tokens."""

from __future__ import annotations

import numpy as np

from runtime.scheduler import Batch, Chunk, Sequence, Snapshot


def batch_of(chunks: list[tuple[int, int]], decodes: list[int]) -> Batch:
    """A step of chunks, (tokens before, tokens), the last of which ends its prompt, and of decodes at positions."""
    sequences = [Sequence(index, 4096, np.zeros(4096, np.int32), 8) for index in range(len(chunks) + len(decodes))]
    made = [
        Chunk(sequence, before, tokens, samples=index == len(chunks) - 1)
        for index, (sequence, (before, tokens)) in enumerate(zip(sequences, chunks, strict=False))
    ]
    return Batch(0, made, sequences[len(chunks) :], decodes, [], Snapshot(0, len(sequences), 0, 0, 0, 0))

"""A rank that sums through memory shared with others: ``python -m tests.tiny.peer_rank RANK RANKS FOLDER``.

It runs in Triton's interpreter, and so where no GPU is to be seen. The folder holds a file for each rank's two inboxes,
empty; what every sum leaves is written there.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from tests.tiny import interpreter  # noqa: F401  # isort: skip (before any kernel)
from runtime.kernels import reduce_norm
from runtime.kernels.reduce_norm import Inbox, one_shot, two_shot

WIDTH, TOKENS, EPS = 48, 12, 1e-6
DTYPE = torch.float16  # bfloat16 Triton's interpreter rounds as NumPy can


class Step(NamedTuple):
    """Reductions of as many rows, of one stream.

    Attributes:
        way: ``one_shot`` or ``two_shot``.
        tokens: Rows.
        sums: How many.
    """

    way: str
    tokens: int
    sums: int


STEPS = [
    *(Step("one_shot", tokens, 2) for tokens in (1, 5)),
    *(Step("two_shot", tokens, 2) for tokens in (9, 1)),
    *(Step(way, 3, 1) for way in ("one_shot", "two_shot", "one_shot", "two_shot")),
    Step("one_shot", 2, 4),
    Step("two_shot", 7, 4),
]
reduce_norm._PROGRAMS = dict.fromkeys(reduce_norm._PROGRAMS, 2)  # each has several rows to do


def parts(step: int, rank: int) -> list[Tensor]:
    """What a rank adds in each sum of a step; zeros of both signs among it."""
    generator = torch.Generator().manual_seed(100 * step + rank)
    rows = torch.randn(STEPS[step].sums, STEPS[step].tokens, WIDTH, generator=generator)
    rows[..., ::5] = -0.0
    return list(rows.to(DTYPE))


def weight() -> Tensor:
    """Of the norm, the same everywhere."""
    return torch.randn(WIDTH, generator=torch.Generator().manual_seed(7)).to(DTYPE)


def numbers(ranks: int) -> tuple[int, int]:
    """Of the two inboxes, the one behind the other."""
    return reduce_norm.one_shot_numbers(TOKENS, ranks, WIDTH), reduce_norm.two_shot_numbers(TOKENS, ranks, WIDTH)


def run(rank: int, ranks: int, folder: Path) -> Iterator[tuple[Tensor, Tensor]]:
    """What each sum leaves."""
    first, second = numbers(ranks)
    memories = [
        torch.from_file(str(folder / f"{other}"), shared=True, size=first + second, dtype=torch.int16)
        for other in range(ranks)
    ]
    inboxes = {}
    for way, start, pieces in (("one_shot", 0, TOKENS), ("two_shot", first, -(-TOKENS // ranks))):
        addresses = torch.tensor([memory[start:].data_ptr() for memory in memories])
        inboxes[way] = Inbox(rank, addresses, torch.zeros(pieces, dtype=torch.int32))
    ways = {"one_shot": one_shot, "two_shot": two_shot}
    delays = random.Random(rank)
    for index, step in enumerate(STEPS):
        residual: Tensor | None = None
        for part in parts(index, rank):
            time.sleep(delays.choice((0, 0, 0, 0.005, 0.03)))
            normed, residual = ways[step.way](part, residual, weight(), EPS, inboxes[step.way], overlap_launch=False)
            yield normed.clone(), residual.clone()


def main(rank: int, ranks: int, folder: Path) -> None:
    left = list(run(rank, ranks, folder))
    normed, streams = (torch.cat([pair[index] for pair in left]).numpy() for index in (0, 1))
    np.savez(folder / f"{rank}.npz", normed=normed, streams=streams)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))

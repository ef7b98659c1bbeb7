"""Ranks that are streams of one GPU sum through its memory: ``python -m tests.gpu.ranks_as_streams [RANKS...]``.

A process of its own, since a rank that waits for what never comes holds the GPU for ever. Every stream has a queue of
its own, and all programs of all ranks must find room at once: sums that are launched early wait for their turn on a
processor, one behind the other, and those of four ranks have one to themselves. Ten sums of up to eight programs left
the fourth rank none, on which the others wait.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from itertools import product
from typing import NamedTuple

os.environ["CUDA_DEVICE_MAX_CONNECTIONS"] = "32"  # read when the GPU is first asked for

import torch
from torch import Tensor

from runtime.kernels import reduce_norm
from runtime.kernels.reduce_norm import EMPTY, Inbox, one_shot, one_shot_numbers, two_shot, two_shot_numbers

WIDTH, TOKENS, EPS = 5120, 200, 1e-6
PROGRAMS = 3  # of a rank's sum
SIZES = (1, 5, 16, 2, 3, 64, 1, 200, 33, 7)
OVERLAP = torch.cuda.get_device_capability() >= (9, 0)
WAYS = {"one_shot": one_shot, "two_shot": two_shot}


class Rank(NamedTuple):
    """A stream, its inboxes by way, and the memory of all ranks' inboxes."""

    stream: torch.cuda.Stream
    inboxes: dict[str, Inbox]
    memory: list[Tensor]


def make_ranks(ranks: int) -> list[Rank]:
    counts = {
        "one_shot": one_shot_numbers(TOKENS, ranks, WIDTH),
        "two_shot": two_shot_numbers(TOKENS, ranks, WIDTH),
    }
    pieces = {"one_shot": TOKENS, "two_shot": -(-TOKENS // ranks)}
    addresses, held = {}, []
    for way, count in counts.items():
        memories = [torch.full((count,), EMPTY, dtype=torch.int16, device="cuda") for _ in range(ranks)]
        held.extend(memories)
        addresses[way] = torch.tensor([memory.data_ptr() for memory in memories], device="cuda")
    made = []
    for rank in range(ranks):
        inboxes = {
            way: Inbox(rank, addresses[way], torch.zeros(pieces[way], dtype=torch.int32, device="cuda")) for way in WAYS
        }
        made.append(Rank(torch.cuda.Stream(), inboxes, held))
    return made


def warm_up(rank: Rank) -> None:
    """Have each kernel loaded, and memory at hand: neither may wait for a GPU on which kernels wait for each other."""
    nothing, weight = torch.empty(0, WIDTH, dtype=torch.bfloat16, device="cuda"), noise(1, 0)[0]
    with torch.cuda.stream(rank.stream):
        for (way, run), residual, early in product(WAYS.items(), (None, nothing), {False, OVERLAP}):
            run(nothing, residual, weight, EPS, rank.inboxes[way], overlap_launch=early)
        kept = [torch.empty(tokens, WIDTH, dtype=torch.bfloat16, device="cuda") for tokens in SIZES]
        del kept
    torch.cuda.synchronize()


def noise(tokens: int, seed: int) -> Tensor:
    generator = torch.Generator("cuda").manual_seed(seed)
    return torch.randn(tokens, WIDTH, generator=generator, device="cuda").bfloat16()


def on_all(ranks: list[Rank], work: Callable[[int, Rank], None]) -> None:
    """Have every rank launch something; returns when all of it has run."""
    torch.cuda.synchronize()
    for index, rank in enumerate(ranks):
        with torch.cuda.stream(rank.stream):
            work(index, rank)
    torch.cuda.synchronize()


def check(ranks: list[Rank], way: str, *, early: bool, graph: bool) -> None:
    """Sums of many sizes one behind the other, in a graph that runs twice or eager; what they leave."""
    inputs = [[noise(tokens, 100 * index + rank) for index, tokens in enumerate(SIZES)] for rank in range(len(ranks))]
    streams = [noise(tokens, 1000 + index) for index, tokens in enumerate(SIZES)]
    weight = noise(1, 7)[0]
    parts = [[part.clone() for part in mine] for mine in inputs]
    residuals: list[list[Tensor | None]] = [
        [None if index % 3 == 0 else stream.clone() for index, stream in enumerate(streams)] for _ in ranks
    ]
    left: list[list[tuple[Tensor, Tensor]]] = [[] for _ in ranks]

    def sums(index: int, rank: Rank) -> None:
        left[index] = [
            WAYS[way](part, residual, weight, EPS, rank.inboxes[way], overlap_launch=early)
            for part, residual in zip(parts[index], residuals[index], strict=True)
        ]

    if graph:
        graphs = [torch.cuda.CUDAGraph() for _ in ranks]
        for index, rank in enumerate(ranks):
            with torch.cuda.graph(graphs[index], stream=rank.stream):
                sums(index, rank)

        def replay(index: int, rank: Rank) -> None:
            for part, given in zip(parts[index], inputs[index], strict=True):
                part.copy_(given)
            for residual, given in zip(residuals[index], streams, strict=True):
                if residual is not None:
                    residual.copy_(given)
            graphs[index].replay()

        on_all(ranks, replay)
        on_all(ranks, replay)
    else:
        on_all(ranks, sums)
    what = f"{way} of {len(ranks)} early={early} graph={graph}"
    for index, tokens in enumerate(SIZES):
        exact = torch.stack([mine[index].float() for mine in inputs]).sum(0)
        if index % 3:
            exact = exact + streams[index].float()
        normed = exact * torch.rsqrt(exact.square().mean(-1, keepdim=True) + EPS) * weight.float()
        for rank in range(len(ranks)):
            mine = slice(rank, None, len(ranks)) if way == "two_shot" else slice(None)
            for name, found, right in (
                ("normed", left[rank][index][0], normed),
                ("stream", left[rank][index][1][mine], exact[mine]),
            ):
                error = float((found.float() - right).norm() / right.norm()) if len(right) else 0.0
                assert error < 5e-3, f"{what}: {name} of {tokens} rows on rank {rank}, sum {index}: error {error:.1e}"
            assert torch.equal(left[rank][index][0], left[0][index][0]), f"{what}: ranks differ, {tokens} rows"


def main() -> int:
    reduce_norm._PROGRAMS = dict.fromkeys(reduce_norm._PROGRAMS, PROGRAMS)
    waiting, room = sum(min(size, PROGRAMS) for size in SIZES), torch.cuda.get_device_properties().multi_processor_count
    for count in [int(word) for word in sys.argv[1:]] or (2, 4):
        assert count * waiting <= room, f"{count} ranks: {waiting} programs each would not all find room on {room}"
        ranks = make_ranks(count)
        for rank in ranks:
            warm_up(rank)
        for way, early, graph in product(WAYS, sorted({False, OVERLAP}), (False, True)):
            check(ranks, way, early=early, graph=graph)
        print(f"{count} ranks on one GPU sum right")
    return 0


if __name__ == "__main__":
    sys.exit(main())

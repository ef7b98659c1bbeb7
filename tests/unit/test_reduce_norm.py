"""Sums over ranks with add and norm, in Triton's interpreter: each rank a process, the GPUs' memory a shared file."""

# ruff: noqa: E402 (what needs torch is imported once it is known to be there)
from __future__ import annotations

import os
import subprocess
import sys
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("tests.tiny.interpreter")

from runtime.kernels.reduce_norm import EMPTY
from tests.tiny import peer_rank
from tests.tiny.peer_rank import EPS, STEPS, parts

NO_GPU = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
LIMIT_S = 120  # a rank that waits for what never comes would wait for ever


def run_ranks(ranks: int, folder: Path) -> list[dict[str, np.ndarray]]:
    """What every rank's sums left."""
    for rank in range(ranks):
        np.full(sum(peer_rank.numbers(ranks)), EMPTY, np.int16).tofile(folder / f"{rank}")
    command = [sys.executable, "-m", "tests.tiny.peer_rank"]
    processes = [
        subprocess.Popen([*command, str(rank), str(ranks), str(folder)], cwd=Path(__file__).parents[2], env=NO_GPU)
        for rank in range(ranks)
    ]
    try:
        assert [process.wait(LIMIT_S) for process in processes] == [0] * ranks
    finally:
        for process in processes:
            process.kill()
            process.wait()
    return [dict(np.load(folder / f"{rank}.npz")) for rank in range(ranks)]


@pytest.mark.parametrize("ranks", [2, 4])
def test_sums_of_changing_sizes_one_behind_the_other(ranks: int, tmp_path: Path) -> None:
    found = run_ranks(ranks, tmp_path)
    for rank in range(1, ranks):
        assert (found[rank]["normed"].view(np.int16) == found[0]["normed"].view(np.int16)).all(), "ranks differ"
    start = 0
    for index, step in enumerate(STEPS):
        stream = torch.zeros(step.tokens, peer_rank.WIDTH)
        for rows in zip(*(parts(index, rank) for rank in range(ranks)), strict=True):
            *_, total = accumulate(part.float() for part in rows)  # in the order of ranks
            exact = stream + total
            stream = exact.half().float()
            here = slice(start, start + step.tokens)
            for rank in range(ranks):
                mine = slice(rank, None, ranks) if step.way == "two_shot" else slice(None)
                assert torch.equal(torch.from_numpy(found[rank]["streams"][here][mine]).float(), stream[mine]), step
            normed = exact * torch.rsqrt(exact.square().mean(-1, keepdim=True) + EPS) * peer_rank.weight().float()
            ours = torch.from_numpy(found[0]["normed"][here]).float()
            assert torch.allclose(ours, normed, rtol=1e-3, atol=1e-3), step
            start += step.tokens
    assert start == len(found[0]["normed"])

"""Sums over ranks with add and norm on GPUs: ranks as streams of one, and as processes on several."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)


def said(*words: str, limit_s: float) -> str:
    """What a program says; it fails, or takes longer, and so does the test."""
    run = subprocess.run(
        [sys.executable, "-m", *words],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=limit_s,
    )
    assert run.returncode == 0, run.stdout
    return run.stdout


def test_ranks_as_streams_of_one_gpu() -> None:
    assert "4 ranks on one GPU sum right" in said("tests.gpu.ranks_as_streams", limit_s=180)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_ranks_on_two_gpus() -> None:
    assert "FAIL" not in said("tests.benchmarks.gpu_tp", "--tp", "2", "--parts", "check", limit_s=240)

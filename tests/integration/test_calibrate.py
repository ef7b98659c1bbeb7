"""Calibrating on the CPU, for a few seconds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from harness.cli import main
from harness.cost.measured import STAGES, MeasuredProfile

pytest.importorskip("torch", reason="the engine needs the runtime extra")

SMALL = ("model=tiny", "hardware=cpu", "engine.max_running=8", "engine.max_context=1024", "engine.pages=4000")


def calibrate(out: Path, *words: str) -> MeasuredProfile:
    assert main(["calibrate", *SMALL, "policy.batching.step_tokens=256", "--out", str(out), *words]) == 0
    return MeasuredProfile.load(out)


def test_a_profile_is_measured_within_its_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile = calibrate(tmp_path / "profile", "--seconds", "8")
    assert (profile.tp, profile.max_running, profile.pages, profile.weight_dtype) == (1, 8, 4000, "fp32")
    assert len(profile.steps) >= 12
    for point in profile.steps:
        assert point.device_s > 0
        assert point.repeats >= 3
        assert point.shape.decode_sequences <= 8
    assert {point.stage for point in profile.host} == set(STAGES)
    assert {point.overlap for point in profile.host if point.stage == "schedule"} == {True, False}
    longer = [point for point in profile.steps if point.shape.prefill_tokens >= 256]
    shorter = [point for point in profile.steps if point.shape.prefill_tokens + point.shape.decode_sequences == 1]
    if longer and shorter:
        assert max(p.device_s for p in longer) > min(p.device_s for p in shorter)
    assert "cost=profile" in capsys.readouterr().out


def test_ranks_measure_together(tmp_path: Path) -> None:
    out = tmp_path / "profile"
    words = (*SMALL, "policy.batching.step_tokens=256", "tp=2", "--seconds", "8", "--out", str(out))
    command = [sys.executable, "-m", "harness", "calibrate", *words]  # a group of ranks is a process's for good
    subprocess.run(command, check=True, timeout=100, stdout=subprocess.DEVNULL)
    profile = MeasuredProfile.load(out)
    assert profile.tp == 2
    assert profile.steps
    sizes = [point.bytes for point in profile.collectives]
    assert sizes == sorted(sizes)
    assert all(point.seconds > 0 and point.algorithm == "gloo" for point in profile.collectives)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--seconds", "0"), "--seconds 0"),
        (("backend=sim",), "backend=sim"),
        (("engine.pages=0",), "engine.pages=0"),
        (("backend.device=tpu",), "backend.device=tpu"),
    ],
)
def test_a_mistake_is_one_line(words: tuple[str, ...], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", *SMALL, *words]) == 2
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1

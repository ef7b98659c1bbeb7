"""What a server on the CPU takes of memory is said before it begins, and refused where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.backends import host_memory
from harness.backends.host_memory import available_bytes, check_host_memory
from harness.compose import compose
from harness.config import ConfigError
from runtime.scheduler import SchedulerConfig

SIZES = SchedulerConfig(pages=1000, page_size=16, max_running=8, max_context=2048)


def check(free: int | None, monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(host_memory, "available_bytes", lambda: free)
    check_host_memory(compose(["backend=runtime", "hardware=cpu", *words]), SIZES, random=True)


def test_what_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"qwen3_8b on the CPU takes 16\.4 GB of random weights and 2\.4 GB of KV"):
        check(10**10, monkeypatch, "model=qwen3_8b")
    check(10**10, monkeypatch, "model=qwen3_8b", "backend.device=cuda")  # a GPU's memory is another


def test_what_is_much_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    check(10**11, monkeypatch, "model=qwen3_8b")
    assert capsys.readouterr().err.count("\n") == 1
    check(None, monkeypatch, "model=qwen3_8b", "backend.dtype=float32")
    assert "32.8 GB of random weights" in capsys.readouterr().err
    check(10**11, monkeypatch, "model=tiny")
    assert capsys.readouterr().err == ""


def test_memory_is_the_machines_or_the_containers(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    assert available_bytes(meminfo, tmp_path) is None
    meminfo.write_text("MemTotal: 9 kB\nMemAvailable:    5 kB\n")
    assert available_bytes(meminfo, tmp_path) == 5 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    assert available_bytes(meminfo, tmp_path) == 5 * 1024
    (tmp_path / "memory.max").write_text("2048\n")
    assert available_bytes(meminfo, tmp_path) == 2048

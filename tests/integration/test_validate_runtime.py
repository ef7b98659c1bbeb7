"""The simulator held against the real server on the CPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.cli import main
from harness.metrics.files import load_run

pytest.importorskip("torch", reason="the real server needs the runtime extra")

WORDS = ("model=tiny", "hardware=cpu", "policy=vllm", "trace.head=30", "trace.rate=20", "trace.cap_total_tokens=600")


def test_a_workload_is_replayed_and_its_errors_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ("engine.max_context=700", "engine.max_running=12", "backend.client=direct", "++backend.kv_tokens=3000")
    out = tmp_path / "validation"
    assert main(["validate", *WORDS, *sizes, "--repeats", "1", "--out", str(out)]) == 0
    real, twin = load_run(out / "runtime_1"), load_run(out / "sim")
    assert real.summary["server"]["pages"] == 3000
    for name in ("pages", "page_size", "max_running", "max_context"):
        assert twin.summary["server"][name] == real.summary["server"][name]
    found = json.loads((out / "validation.json").read_text())
    assert found["notes"] == []
    assert found["errors_on_recorded_steps"]["e2e_s.mean"] is not None
    assert "steps: identical" in capsys.readouterr().out
    # Judged again from the recording alone, as elsewhere, it comes to the same.
    again = tmp_path / "again"
    assert main(["validate", f"from={out / 'runtime_1'}", "--out", str(again)]) == 0
    judged = json.loads((again / "validation.json").read_text())
    assert judged["twins"][0]["errors"] == found["twins"][0]["errors"]
    assert judged["errors_on_recorded_steps"] == found["errors_on_recorded_steps"]

"""``calibrate from=``: a fit to requests that someone else measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from harness.cli import main


def test_a_slower_device_is_found_from_its_requests(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run, fit = tmp_path / "run", tmp_path / "fit.json"
    assert main(["run", "trace.head=40", "hardware.bandwidth_fraction=0.6", f"hydra.run.dir={run}"]) == 0
    assert main(["calibrate", f"from={run}", "--out", str(fit)]) == 0
    found = json.loads(fit.read_text())
    assert {error["metric"] for error in found["after"] if error["held_out"]} == {"ttft_s", "tpot_s", "e2e_s"}
    for before, after in zip(found["before"], found["after"], strict=True):
        assert after["mape"] < before["mape"] / (1 if after["metric"] == "ttft_s" else 10)
    (bandwidth,) = [p for p in found["parameters"] if p["name"] == "hardware.bandwidth_fraction"]
    assert bandwidth["value"] == pytest.approx(0.6, rel=0.02)
    assert "Use it by: hardware." in capsys.readouterr().out


@pytest.mark.parametrize(("content", "named"), [('{"a": 1}', "not a result"), (None, "no such")])
def test_what_cannot_be_read_is_one_line(
    content: str | None, named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "result.json"
    if content is not None:
        file.write_text(content)
    assert main(["calibrate", f"from={file}"]) == 2
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1

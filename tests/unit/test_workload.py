"""What a workload refuses before anything is sent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from harness.cli import main
from harness.compose import compose
from harness.experiment import load_trace
from harness.workload import Workload, WorkloadError
from traces.load import load


def test_two_requests_of_one_id_are_refused_by_its_name() -> None:
    trace = load("chat")
    twice = trace.with_columns(request_id=np.where(trace.request_id == 9, 7, trace.request_id))
    with pytest.raises(WorkloadError, match="request_id 7 is there more than once"):
        Workload(twice)
    Workload(trace)


def test_a_file_with_an_id_twice_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    line = '{"request_id": 5, "arrival_s": 0.0, "prompt_tokens": 8, "output_tokens": 4}\n'
    Path("twice.jsonl").write_text(2 * line)
    assert main(["run", "trace.path=twice.jsonl"]) == 2
    error = capsys.readouterr().err
    assert "request 5: request_id is 5, expected an id that no other request has" in error
    assert error.count("\n") == 1


def test_time_scale_makes_thinking_shorter_and_the_rate_has_the_last_word() -> None:
    words = ["trace=generated", "trace.generate.requests=40", "trace.generate.turns.mean=4"]
    whole, tenth = (
        load_trace(compose([*words, *more]).trace) for more in ((), ("trace.time_scale=0.1", "trace.rate=3"))
    )
    np.testing.assert_allclose(tenth.think_s, 0.1 * whole.think_s)
    assert (len(tenth) - 1) / np.ptp(tenth.arrival_s) == pytest.approx(3)
    np.testing.assert_array_equal(tenth.prompt_tokens, whole.prompt_tokens)

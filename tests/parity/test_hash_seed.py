"""No decision depends on Python's hash seed or on where objects lie in memory: ranks are separate processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.core.digest import busy_scenarios, digest
from tests.core.driver import drive

ROOT = Path(__file__).parents[2]


def _digest(hash_seed: str) -> str:
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-m", "tests.core.digest"],
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": path},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()


def test_processes_with_other_hash_seeds_decide_alike() -> None:
    assert {_digest("1"), _digest("2")} == {digest()}


def test_the_scenarios_are_busy() -> None:
    for scenario in busy_scenarios():
        record = drive(scenario)
        assert record.preemptions > 0
        assert {"stop", "length", "abort"} == set(record.reasons.values())
        assert any(step[-1].evicted_pages for step in record.steps)
        assert max(step[-1].waiting for step in record.steps) > 5

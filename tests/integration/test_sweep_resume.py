"""A sweep that dies goes on: whatever kills it, nothing that ended is run again and nothing is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

CELLS = 20
WORDS = ["policy=radix,naive,sglang,vllm", "trace.rate=1,2,3,4,5", "trace.head=60", "--out", "sweep", "--workers", "2"]


def begin(directory: Path, *more: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "harness", "sweep", *WORDS, *more],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), **environment},
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ended(directory: Path) -> dict[str, tuple[int, int]]:
    """Each cell that has ended: which file its summary is, and when it was written."""
    stats = {path.parent.name: path.stat() for path in (directory / "sweep").glob("cells/*/summary.json")}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in stats.items()}


def wait_for(directory: Path, sweep: subprocess.Popen[str], cells: int) -> None:
    while len(ended(directory)) < cells:
        assert sweep.poll() is None, sweep.communicate()
        time.sleep(0.01)


def resumes(directory: Path, before: dict[str, tuple[int, int]], *more: str) -> None:
    sweep = begin(directory, *more)
    said, error = sweep.communicate(timeout=120)
    assert sweep.returncode == 0, said + error
    assert f"Sweep of {CELLS} cells, {len(before)} of them there already" in said
    after = ended(directory)
    assert len(after) == CELLS
    assert before.items() <= after.items(), "a cell that had ended was run again"
    table = pq.read_table(directory / "sweep" / "cells.parquet").to_pydict()
    assert len(set(zip(table["policy"], table["trace.rate"], strict=True))) == CELLS == len(table["run"])


def processes(group: int) -> list[str]:
    listed = subprocess.run(["ps", "-eo", "pgid=,pid=,stat="], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if line.split()[0] == str(group) and "Z" not in line.split()[2]]


def test_killed_with_its_workers(tmp_path: Path) -> None:
    sweep = begin(tmp_path)
    wait_for(tmp_path, sweep, 5)
    os.killpg(sweep.pid, signal.SIGKILL)
    sweep.communicate()
    before = ended(tmp_path)
    assert 5 <= len(before) < CELLS
    resumes(tmp_path, before)


def test_workers_do_not_outlive_a_sweep_that_is_killed(tmp_path: Path) -> None:
    sweep = begin(tmp_path)
    wait_for(tmp_path, sweep, 3)
    os.kill(sweep.pid, signal.SIGKILL)
    sweep.wait()
    while processes(sweep.pid):
        time.sleep(0.01)
    sweep.communicate()
    before = ended(tmp_path)
    assert len(before) < CELLS
    resumes(tmp_path, before)


def test_interrupted_it_says_what_to_do_and_keeps_what_has_ended(tmp_path: Path) -> None:
    sweep = begin(tmp_path)
    wait_for(tmp_path, sweep, 3)
    os.killpg(sweep.pid, signal.SIGINT)
    said, error = sweep.communicate(timeout=60)
    assert sweep.returncode == 130, error
    assert "the same command goes on" in said
    assert "Traceback" not in error
    assert not processes(sweep.pid)
    before = ended(tmp_path)
    assert len(before) < CELLS
    resumes(tmp_path, before)


def test_a_worker_that_dies_fails_its_cell_only(tmp_path: Path) -> None:
    sweep = begin(tmp_path)
    wait_for(tmp_path, sweep, 3)
    workers = subprocess.run(
        ["pgrep", "-P", str(sweep.pid), "-f", "spawn_main"], capture_output=True, text=True, check=True
    )
    os.kill(int(workers.stdout.split()[0]), signal.SIGKILL)
    said, error = sweep.communicate(timeout=60)
    assert sweep.returncode == 1, error
    assert "a worker process died" in said
    before = ended(tmp_path)
    assert CELLS - 2 <= len(before) < CELLS, "no more than what two workers had under way is lost"
    failed = list((tmp_path / "sweep").rglob("error.txt"))
    assert len(before) + len(failed) == CELLS
    resumes(tmp_path, before, "--retry")


SBATCH = """\
#!{python}
import os, re, subprocess, sys
options = dict(word[2:].split("=", 1) for word in sys.argv[1:] if "=" in word)
assert "--wait" in sys.argv and options["partition"] == "cpu", sys.argv
print(17, flush=True)
last = int(re.fullmatch(r"0-(\\d+)", options["array"])[1])
for task in range(last + 1):
    with open(options["output"].replace("%a", str(task)), "w") as log:
        environment = {{**os.environ, "SLURM_ARRAY_TASK_ID": str(task)}}
        done = subprocess.run(
            ["/bin/sh", "-c", options["wrap"]], cwd=options["chdir"], env=environment, stdout=log, stderr=log
        )
    if done.returncode:
        sys.exit(done.returncode)
"""


def with_sbatch(directory: Path) -> str:
    (directory / "bin").mkdir()
    (directory / "bin" / "sbatch").write_text(SBATCH.format(python=sys.executable))
    (directory / "bin" / "sbatch").chmod(0o755)
    return f"{directory / 'bin'}{os.pathsep}{os.environ['PATH']}"


def test_an_array_of_slurm_jobs_runs_all_cells(tmp_path: Path) -> None:
    """Of a stand-in for sbatch that takes its options and runs the jobs one after another."""
    sweep = begin(tmp_path, "--slurm", "3", "--sbatch=--partition=cpu", PATH=with_sbatch(tmp_path))
    said, error = sweep.communicate(timeout=120)
    assert sweep.returncode == 0, error
    assert f"{CELLS} cells in" in said
    logs = sorted((tmp_path / "sweep" / "slurm").glob("*.log"))
    assert [f"Sweep of {cells} cells" in log.read_text() for cells, log in zip((7, 7, 6), logs, strict=True)] == [
        True
    ] * 3
    resumes(tmp_path, ended(tmp_path))


def test_a_slurm_array_that_ends_early_is_said(tmp_path: Path) -> None:
    path = with_sbatch(tmp_path)
    sbatch = tmp_path / "bin" / "sbatch"
    sbatch.write_text(f"#!{sys.executable}\nimport sys\nsys.exit('sbatch: error: invalid partition')\n")
    sweep = begin(tmp_path, "--slurm", "3", PATH=path)
    _, error = sweep.communicate(timeout=60)
    assert sweep.returncode == 2
    assert f"{CELLS} cells did not end (sbatch: error: invalid partition)" in error
    assert error.count("\n") == 1


def test_ray(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'servetwin[sweep]'")
    sweep = begin(tmp_path, "--ray", "local")
    _, error = sweep.communicate(timeout=300)
    assert sweep.returncode == 0, error
    resumes(tmp_path, ended(tmp_path))

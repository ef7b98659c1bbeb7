"""``harness sweep``: cells are kept, also those that fail, and end in one file and one table."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.cli import main
from harness.config import ConfigError
from harness.metrics.files import load_run
from harness.sweep.cell import CellTask, Status, run_cell, status_of
from harness.sweep.directory import locked, tasks_of
from harness.sweep.grid import expand
from harness.sweep.on_slurm import share_of

SMALL = ["trace.head=20", "--out", "sweep", "--workers", "1"]


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def sweep(*words: str) -> int:
    return main(["sweep", *words])


def task(directory: Path, *words: str, keep_tables: bool = False) -> CellTask:
    (cell,) = expand(words)
    return CellTask(directory, cell.config, keep_tables)


def written(directory: Path) -> dict[str, int]:
    """When each cell's summary was written."""
    return {path.parent.name: path.stat().st_mtime_ns for path in directory.glob("cells/*/summary.json")}


def test_a_sweep_ends_with_a_file_and_a_table_and_its_page_can_be_made(capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep("policy=radix,naive", "tp=1,2", "slo=llama3_8b", *SMALL) == 0
    said = capsys.readouterr().out
    for name in ("policy=radix tp=1", "policy=radix tp=2", "policy=naive tp=1", "policy=naive tp=2"):
        assert name in said
    table = pq.read_table("sweep/cells.parquet").to_pydict()
    assert list(zip(table["policy"], table["tp"], strict=True)) == [
        ("naive", 1),
        ("naive", 2),
        ("radix", 1),
        ("radix", 2),
    ]
    for row, run in enumerate(table["run"]):
        summary = json.loads((Path("sweep") / run / "summary.json").read_text())
        assert table["metrics.ttft_s.p99"][row] == summary["metrics"]["ttft_s"]["p99"]
        assert table["goodput.attainment"][row] == 1.0
    assert not list(Path("sweep").rglob("requests.parquet"))
    assert main(["report", "sweep"]) == 0
    assert "4 runs over" in Path("sweep/report.html").read_text()


def test_cells_that_are_there_are_not_run_again_whatever_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep("trace.rate=1,2", *SMALL) == 0
    before = written(Path("sweep"))
    capsys.readouterr()
    assert sweep("trace.rate=2,4,1", *SMALL) == 0
    assert "Sweep of 3 cells, 2 of them there already" in capsys.readouterr().out
    after = written(Path("sweep"))
    assert len(after) == 3
    assert before.items() <= after.items()


def test_a_failed_cell_is_kept_with_its_error_and_stops_no_other(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["tp=1,3,2", "trace.head=20", "--out", "sweep", "--workers", "1"]
    assert sweep(*words) == 1
    assert "failed: tp=3: tp=3 does not divide" in capsys.readouterr().out
    table = pq.read_table("sweep/cells.parquet").to_pydict()
    assert table["tp"] == [1, 2, 3]
    assert [error is not None for error in table["error"]] == [False, False, True]
    assert table["throughput.requests_per_s"][2] is None
    before = written(Path("sweep"))
    assert sweep(*words) == 1
    assert "1 failed before (--retry runs them again)" in capsys.readouterr().out
    assert sweep(*words, "--retry") == 1
    assert "1 failed" not in capsys.readouterr().out.partition("\n")[0]
    assert written(Path("sweep")) == before


def test_a_failed_cell_may_succeed_when_it_is_tried_again(tmp_path: Path) -> None:
    attempt = task(tmp_path / "cell", "trace.path=later.jsonl")
    assert run_cell(attempt) is Status.FAILED
    assert "later.jsonl" in (tmp_path / "cell" / "error.txt").read_text()
    (tmp_path / "later.jsonl").write_text(
        '{"timestamp": 0, "input_length": 5, "output_length": 2, "hash_ids": [1]}\n'
        '{"timestamp": 9, "input_length": 5, "output_length": 2, "hash_ids": [2]}\n'
    )
    assert run_cell(attempt) is Status.DONE is status_of(tmp_path / "cell")
    assert not (tmp_path / "cell" / "error.txt").exists()


def test_a_fault_in_a_users_policy_is_kept_with_its_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "faulty_order.py").write_text(
        "from policies.order import Order\n\n\n"
        "class Faulty(Order):\n"
        "    def key(self, sequence):\n"
        "        return 1 / 0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert run_cell(task(tmp_path / "cell", "policy.order.name=faulty_order.Faulty")) is Status.FAILED
    first, *rest = (tmp_path / "cell" / "error.txt").read_text().splitlines()
    assert first.startswith("policy.order.name=faulty_order.Faulty: ZeroDivisionError: division by zero (")
    assert first.endswith("faulty_order.py:6)")
    assert any("faulty_order.py" in line for line in rest)


def test_tables_are_kept_where_asked_for(tmp_path: Path) -> None:
    assert run_cell(task(tmp_path / "cell", "trace.head=20", keep_tables=True)) is Status.DONE
    kept = load_run(tmp_path / "cell")
    assert len(kept.requests) == 20
    assert kept.config["trace"]["head"] == 20
    assert (tmp_path / "cell" / "timeline.json.gz").exists()


def test_a_cell_is_the_run_of_its_configuration(tmp_path: Path) -> None:
    words = ["policy=sglang", "trace.rate=3", "trace.head=50"]
    assert main(["run", *words, "hydra.run.dir=run"]) == 0
    assert run_cell(task(tmp_path / "cell", *words)) is Status.DONE
    one, other = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("run", "cell"))
    assert one == other


def test_hydras_multirun_leaves_the_same_file() -> None:
    assert main(["run", "-m", "policy=radix,naive", "trace.head=20", "hydra.sweep.dir=multirun"]) == 0
    table = pq.read_table("multirun/cells.parquet").to_pydict()
    assert table["policy"] == ["naive", "radix"]


def test_heat_map_of_a_sweep() -> None:
    assert sweep("trace.rate=1,2", "tp=1,2,4", *SMALL, "--plot", "heat.png") == 0
    assert Path("heat.png").read_bytes().startswith(b"\x89PNG")


def test_seeds_are_replicates_in_table_page_and_picture(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["policy=radix,naive", "trace=generated", "trace.generate.seed=1,2,3", "slo=llama3_8b", *SMALL]
    assert sweep(*words, "--plot", "heat.png") == 0
    said = capsys.readouterr().out
    assert "2 settings" in said
    assert "mean over 3 seeds (trace.generate.seed), ± its 95 % interval by Student's t" in said
    assert "differences to the best are paired by seed" in said
    assert "seed=1" not in said
    assert pq.read_table("sweep/cells.parquet").num_rows == 6
    assert main(["report", "sweep"]) == 0
    assert "mean over 3 seeds" in Path("sweep/report.html").read_text()


@given(st.integers(1, 40), st.integers(1, 9))
def test_shares_are_disjoint_and_are_all(cells: int, jobs: int) -> None:
    tasks = {f"{number}": number for number in range(cells)}
    shares = [share_of(tasks, f"{index}/{jobs}") for index in range(jobs)]
    assert sorted(name for share in shares for name in share) == sorted(tasks)


def test_shares_run_by_hand_are_one_sweep(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["trace.rate=1,2,4", *SMALL]
    assert sweep(*words, "--share", "0/2") == 0
    assert len(written(Path("sweep"))) == 2
    assert sweep(*words, "--share", "1/2") == 0
    before = written(Path("sweep"))
    capsys.readouterr()
    assert sweep(*words) == 0
    assert "Sweep of 3 cells, 3 of them there already" in capsys.readouterr().out
    assert written(Path("sweep")) == before


def test_cells_of_an_older_program_are_pointed_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert sweep("tp=1,2", *SMALL) == 0
    later = max(written(Path("sweep")).values()) + 10**9
    Path("my_order.py").touch()
    os.utime("my_order.py", ns=(later, later))
    Path("my_eviction.py").touch()
    os.utime("my_eviction.py", ns=(later, later))
    capsys.readouterr()
    assert sweep("tp=1,2", *SMALL) == 0
    said = capsys.readouterr().out
    assert said.count("OLD RESULTS: my_order.py, my_eviction.py") == 2
    assert "OLD RESULTS" in said.rpartition("Cells:")[2]  # below the table, where it is not scrolled away
    assert "remove sweep to run them again" in said


def test_two_sweeps_do_not_work_in_one_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with locked(tmp_path / "sweep"):
        assert sweep("tp=1,2", *SMALL) == 2
        assert "another sweep is at work" in capsys.readouterr().err
        with pytest.raises(ConfigError, match="another sweep"), locked(tmp_path / "sweep"):
            pass
    with locked(tmp_path / "sweep"):
        pass


def test_tasks_are_named_by_what_they_run(tmp_path: Path) -> None:
    cells = expand(["tp=1,2"])
    assert [each.directory.name for each in tasks_of(cells, tmp_path, keep_tables=False).values()] == [
        cell.id for cell in cells
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["policy=foo,radix"], "Available options in 'policy'"),
        (["tp=1,2", "--workers", "0"], "--workers 0"),
        (["tp=1,2", "--out", "/proc/nowhere"], "/proc/nowhere"),
        (["tp=1,2", "--share", "2/2"], "--share 2/2"),
        (["tp=1,2", "--slurm", "2"], "sbatch"),
        (["tp=1,2", "trace.head=5", "--plot", "heat.xyz"], "heat.xyz"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert sweep(*words) == 2
    error = capsys.readouterr().err
    assert error.startswith("harness sweep: ")
    assert error.count("\n") == 1
    assert said in error


def test_ray_that_is_not_installed_is_named(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    assert sweep("tp=1,2", "--out", "sweep", "--ray", "local") == 2
    assert "pip install 'servetwin[sweep]'" in capsys.readouterr().err


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("sweep", "capacity"):
        assert main([command, "--help"]) == 0
        assert f"python -m harness {command}" in capsys.readouterr().out

"""Real runs recorded in one place and judged in another."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from harness.cli import main
from harness.validate.recording import Recording
from harness.validate.twins import recorded

SMALL = ("model=tiny", "hardware=cpu", "trace.head=30", "engine.pages=8000", "++backend.client=direct")


def as_real(run: Path) -> Path:
    """A simulated run that says it is the real server's: what it lacks is the timing of its loop."""
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["backend"]["name"] = "runtime"
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    return run


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs of one workload, one of another, and a simulated one."""
    root = tmp_path_factory.mktemp("recorded")
    for place, rate, slower in (("slow/1", 10, 0.0), ("slow/2", 10, 1e-3), ("fast/1", 20, 0.0), ("sim", 20, 0.0)):
        words = [*SMALL, f"trace.rate={rate}", f"cost.step_overhead_s={slower}", f"hydra.run.dir={root / place}"]
        assert main(["run", *words]) == 0
        if place != "sim":
            as_real(root / place)
    return root


def test_runs_of_one_workload_are_repeats(tree: Path) -> None:
    assert recorded([tree], print) == {"fast": [tree / "fast/1"], "slow": [tree / "slow/1", tree / "slow/2"]}
    assert recorded([tree / "slow"], print) == {"slow": [tree / "slow/1", tree / "slow/2"]}
    assert recorded([tree / "fast/1"], print) == {"1": [tree / "fast/1"]}


def test_runs_from_two_places_meet(tree: Path, tmp_path: Path) -> None:
    shutil.copytree(tree / "slow/1", tmp_path / "slow/1")
    found = recorded([tree, tmp_path], print)
    assert [len(runs) for runs in found.values()] == [1, 3]


def test_a_run_that_did_not_end_is_left_out(tree: Path, tmp_path: Path) -> None:
    shutil.copytree(tree / "slow", tmp_path / "slow")
    (tmp_path / "slow/1/summary.json").unlink()
    summary = json.loads((tmp_path / "slow/2/summary.json").read_text())
    shutil.copytree(tmp_path / "slow/2", tmp_path / "slow/3")
    (tmp_path / "slow/2/summary.json").write_text(json.dumps(summary | {"complete": False}))
    said: list[str] = []
    assert recorded([tmp_path], said.append) == {"slow": [tmp_path / "slow/3"]}
    assert [str(tmp_path / "slow/1") in said[0], str(tmp_path / "slow/2") in said[1]] == [True, True]


def test_twins_are_simulated_from_what_was_recorded(
    tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [f"from={tree}", "cost=roofline", "cost.step_overhead_s=2e-3", "--out", str(tmp_path)]
    assert main(["validate", *words]) == 0
    assert "slow: errors of sim" in capsys.readouterr().out
    page = (tmp_path / "validation.md").read_text()
    assert page.count("| fast |") == page.count("| slow |") == 2
    twin, real = Recording.load(tmp_path / "slow/sim"), Recording.load(tree / "slow/1")
    assert twin.config.trace == real.config.trace
    assert twin.config.cost["step_overhead_s"] == 2e-3
    assert twin.config.backend["hops"]["client_s"] == 0
    assert twin.run.summary["server"]["pages"] == 8000
    (found,) = json.loads((tmp_path / "slow/validation.json").read_text())["twins"]
    assert found["errors"]["e2e_s.mean"] > 0
    assert found["real_seconds_per_second"] > 0


def test_the_recorded_cost_model_is_the_twins_where_none_is_chosen(tree: Path, tmp_path: Path) -> None:
    assert main(["validate", f"from={tree / 'fast'}", "--out", str(tmp_path)]) == 0
    (found,) = json.loads((tmp_path / "validation.json").read_text())["twins"]
    assert found["errors"]["tpot_s.mean"] == pytest.approx(0)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("trace.rate=5",), "trace.rate=5"),
        (("engine.pages=7",), "engine.pages=7"),
        (("--backends", "runtime"), "--backends runtime"),
        (("cost=nothing",), "nothing"),
    ],
)
def test_a_mistake_is_one_line(
    words: tuple[str, ...], named: str, tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["validate", f"from={tree}", *words, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1


def test_a_place_without_real_runs_is_a_mistake(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for place in (tmp_path, tree / "sim"):
        assert main(["validate", f"from={place}", "--out", str(tmp_path / "out")]) == 2
        error = capsys.readouterr().err
        assert str(place) in error
        assert "backend=runtime" in error

"""Holding a twin's run against a real one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from harness.cli import main
from harness.cost.shape import CostModel, StepShape
from harness.simulator.engine import StepSeconds
from harness.validate.agreement import errors, rank_correlation
from harness.validate.recording import Recording, check_alike
from harness.validate.sources import RecordedCost, shared_steps, stages
from harness.validate.validation import validate, write

SMALL = ("model=tiny", "hardware=cpu", "trace.head=30", "trace.rate=20", "engine.pages=8000")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two runs of one workload: the second's steps and messages take longer."""
    made = {}
    for name, words in {"first": (), "slower": ("cost.step_overhead_s=1e-3", "++backend.hops.hop_s=1e-3")}.items():
        made[name] = tmp_path_factory.mktemp("runs") / name
        assert main(["run", *SMALL, *words, f"hydra.run.dir={made[name]}"]) == 0
    return made


def test_a_run_agrees_with_itself(runs: dict[str, Path]) -> None:
    recording = Recording.load(runs["first"])
    found = {(error.metric, error.statistic): error.error for error in errors(recording, recording)}
    assert found["ttft_s", "rank_correlation"] == pytest.approx(1)
    assert all(error == 0 for (_, statistic), error in found.items() if statistic != "rank_correlation")
    for metric in ("ttft_s", "tpot_s", "itl_s", "e2e_s"):
        for statistic in ("mean", "p50", "p90", "p95", "p99", "mape", "median_ape", "p90_ape"):
            assert (metric, statistic) in found
    assert shared_steps(recording.record, recording.record)[0] is None


def test_errors_are_of_the_twin_over_the_real_run(runs: dict[str, Path]) -> None:
    real, twin = Recording.load(runs["first"]), Recording.load(runs["slower"])
    found = {(error.metric, error.statistic): error for error in errors(real, twin)}
    one, other = (recording.run.columns["e2e_s"] for recording in (real, twin))
    assert found["e2e_s", "mean"].error == pytest.approx(other.mean() / one.mean() - 1)
    assert found["e2e_s", "mape"].error == pytest.approx(np.abs(other / one - 1).mean())
    assert found["decode_step_s", "mean"].error > 0


def test_stages_sum_up_to_the_error_of_the_mean(runs: dict[str, Path]) -> None:
    real, twin = Recording.load(runs["first"]), Recording.load(runs["slower"])
    found = {(error.metric, error.statistic): error.error for error in errors(real, twin)}
    way = stages(real, twin)
    assert sum(stage.share for stage in way) == pytest.approx(found["e2e_s", "mean"])
    assert sum(stage.real_s for stage in way) == pytest.approx(real.run.columns["e2e_s"].mean())


def test_a_validation_leaves_tables_and_pictures(runs: dict[str, Path], tmp_path: Path) -> None:
    found = validate([runs["first"], runs["slower"]], {"twin": runs["slower"]}, {"twin": 0.5}, lambda _: None)
    write(found, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} >= {"errors.parquet", "cdf.png", "qq.png", "validation.json"}
    (twin,) = json.loads((tmp_path / "validation.json").read_text())["twins"]
    assert twin["errors"]["e2e_s.mean"] > 0
    assert twin["steps_shared"] <= twin["steps"]
    own = {(line.metric, line.statistic): line.own_error for line in found.findings[0].lines}
    assert own["e2e_s", "mean"] > 0
    assert found.steps is None, "a simulated run tells no turns of the loop"
    assert any("when its steps were planned" in note for note in found.notes)


def test_the_command_compares_directories(
    runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["validate", str(runs["first"]), str(runs["slower"]), "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "errors of slower" in shown
    assert "Decisions of slower part" in shown


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (lambda config, summary: summary["server"].update(pages=77), "engine.pages=8000"),
        (lambda config, summary: config["policy"]["eviction"].update(name="fifo"), "policy.eviction.name=lru"),
        (lambda config, summary: config.update(tp=2), "tp=1"),
        (lambda config, summary: summary.update(complete=False), "incomplete"),
    ],
)
def test_another_server_is_refused(changed, named: str, runs: dict[str, Path], tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    other = tmp_path / "other"
    shutil.copytree(runs["first"], other)
    config = yaml.safe_load((other / "config.yaml").read_text())
    summary = json.loads((other / "summary.json").read_text())
    changed(config, summary)
    (other / "config.yaml").write_text(yaml.safe_dump(config))
    (other / "summary.json").write_text(json.dumps(summary))
    with pytest.raises(ValueError, match=named.replace(".", r"\.")):
        check_alike(Recording.load(runs["first"]), Recording.load(other))
    assert main(["validate", str(runs["first"]), str(other)]) == 2
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--backends", "endpoint"), "--backends endpoint"),
        (("--repeats", "0"), "--repeats 0"),
        (("nowhere", "no"), "nowhere"),
    ],
)
def test_a_mistake_is_one_line(words: tuple[str, ...], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", *words]) == 2
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1


def test_a_warmup_as_long_as_the_workload_is_a_mistake_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("real", "twin"):
        assert main(["run", *SMALL, "workload.warmup_s=1e6", f"hydra.run.dir={tmp_path / name}"]) == 0
    capsys.readouterr()
    assert main(["validate", str(tmp_path / "real"), str(tmp_path / "twin"), "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert "workload.warmup_s=1e+06" in error
    assert error.count("\n") == 1


def test_rank_correlation_is_of_the_order_alone() -> None:
    values = np.array([3.0, 1.0, 2.0, 2.0])
    assert rank_correlation(values, values**3) == pytest.approx(1)
    assert rank_correlation(values, -values) == pytest.approx(-1)
    assert rank_correlation(np.array([1.0, 2.0, 3.0]), np.array([1.0, 3.0, 2.0])) == pytest.approx(0.5)
    assert np.isnan(rank_correlation(values, np.ones(4)))


class Flat(CostModel):
    """Every step takes a second."""

    def step_s(self, shape):  # type: ignore[no-untyped-def]
        return 1.0

    def decode_s(self, sequences, rows, context, longest):  # type: ignore[no-untyped-def]
        return np.ones(len(context))

    def launch_s(self, shape, graph):  # type: ignore[no-untyped-def]
        return 0.0, 0.0


def test_recorded_steps_take_what_was_recorded() -> None:
    shapes = [StepShape(1, 100, 5050, 100, sampled=1), *(StepShape(0, 0, 0, 0, n, n, 50 * n, 50, n) for n in (1, 8))]
    cost = RecordedCost(Flat(), shapes, np.array([0.5, 0.1, 0.2]))
    assert [cost.step_s(shape) for shape in shapes] == pytest.approx([0.5, 0.1, 0.2], rel=1e-5)
    near = StepShape(0, 0, 0, 0, 7, 8, 360, 50, 7)
    assert 0.19 < cost.step_s(near) < 0.2
    assert cost.decode_s(7, 8, np.array([360]), np.array([50])).tolist() == [cost.step_s(near)]


def test_of_recorded_steps_that_are_as_near_no_single_one_is_believed() -> None:
    shapes = [StepShape(0, 0, 0, 0, 4, 4, 100, 25, 4)] * 20
    cost = RecordedCost(Flat(), shapes, np.tile([0.1, 0.3], 10))
    assert cost.step_s(shapes[0]) == pytest.approx(0.2)


class Eager(Flat):
    """Prompts take 10 us a token, and 15 ms to launch, of which the device waits for the first."""

    def step_s(self, shape):  # type: ignore[no-untyped-def]
        return 1e-5 * shape.prefill_tokens

    def launch_s(self, shape, graph):  # type: ignore[no-untyped-def]
        return (1e-3, 0.0) if graph else (15e-3, 14e-3)


def test_a_recorded_step_that_waited_for_its_launch_was_launched_as_long_as_it_took() -> None:
    shapes = [StepShape(1, tokens, tokens, tokens) for tokens in (100, 8000)]
    cost = RecordedCost(Eager(), shapes, np.array([25e-3, 81e-3]))
    launched_s, lead_s = zip(*(cost.launch_s(shape, graph=False) for shape in shapes), strict=True)
    assert lead_s == pytest.approx([25e-3, 14e-3])
    assert launched_s == pytest.approx([26e-3, 15e-3])
    seconds = StepSeconds(cost)
    assert [seconds.busy_s(shape, False, 0.0) for shape in shapes] == pytest.approx([25e-3, 81e-3])
    assert cost.launch_s(shapes[0], graph=True) == (1e-3, 0.0)

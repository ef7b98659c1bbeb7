"""The studies of conf/experiment: each composes, every value it tries is one that can be, and the smallest runs."""

from __future__ import annotations

import json
from pathlib import Path

import hydra
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from harness.backends.sim import server_model
from harness.cli import main
from harness.compose import compose, register
from harness.config import conf_dir
from harness.experiment import load_trace

STUDIES = sorted(path.stem for path in (conf_dir() / "experiment").glob("*.yaml"))


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_composes_with_each_of_its_values(study: str) -> None:
    register()
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        config = hydra.compose("config", overrides=[f"experiment={study}"], return_hydra_config=True)
    assert config.hydra.mode.name == "MULTIRUN"
    params = OmegaConf.to_container(config.hydra.sweeper.params)
    assert isinstance(params, dict)
    assert params, "a study varies something"
    for knob, values in params.items():
        parsed = OverridesParser.create().parse_override(f"{knob}={values}")
        choices = list(parsed.sweep_string_iterator())
        assert len(choices) > 1
        for choice in choices:
            settings = compose([f"experiment={study}", f"{knob}={choice}"])
            server_model(settings)  # raises where a knob is wrong, or the model does not fit
            assert settings.backend["name"] == "sim"
    assert len(load_trace(settings.trace)) <= 2000, "small enough for seconds"


def test_the_smallest_study_runs_and_leaves_a_run_for_each_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", "experiment=prefix_cache", "trace.generate.requests=200", "hydra.sweep.dir=study"]) == 0
    hits = {
        run.parent.name.partition("_")[2].partition(",")[0]: json.loads(run.read_text())["cache"]["hit_ratio"]
        for run in Path("study").rglob("summary.json")
    }
    assert set(hits) == {"policy.prefix_cache=True", "policy.prefix_cache=False"}
    assert hits["policy.prefix_cache=False"] == 0
    assert hits["policy.prefix_cache=True"] > 0.5
    said = capsys.readouterr().out
    assert "policy.prefix_cache=True" in said
    assert "policy.prefix_cache=False" in said


def test_one_value_of_a_study_can_be_run_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["run", "experiment=page_size", "hydra.mode=RUN", "engine.page_size=64", "trace.generate.requests=20"]
    assert main([*words, "hydra.run.dir=run"]) == 0
    assert (tmp_path / "run" / "summary.json").exists()

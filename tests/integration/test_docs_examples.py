"""The code of README and of docs/adding-*.md runs, as a reader would run it: in an empty directory, from above."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main
from harness.metrics.files import load_run
from tests.docs.pages import ROOT
from traces.readers import FORMATS

GUIDES = sorted((ROOT / "docs").glob("adding-*.md"))
NEEDS_TORCH = ("adding-a-model", "adding-an-attention-backend")


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and text of each code block."""
    return re.findall(r"^```(\w+)\n(.*?)^```$", page, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture(autouse=True)
def _a_readers_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    before, formats = set(sys.modules), dict(FORMATS)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("my_"):
            del sys.modules[name]
    FORMATS.clear()
    FORMATS.update(formats)


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
def test_a_guides_blocks_run_from_the_first_to_the_last(guide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if guide.stem in NEEDS_TORCH:
        pytest.importorskip("torch")
        from runtime.models import registry

        monkeypatch.setattr(registry, "ARCHITECTURES", registry.ARCHITECTURES)
        for name in list(registry.ARCHITECTURES):
            monkeypatch.setitem(registry.ARCHITECTURES, name, registry.ARCHITECTURES[name])
    found = blocks(guide.read_text(encoding="utf-8"))
    assert found, "a guide shows how"
    names: dict[str, Any] = {"__name__": guide.stem}
    for language, text in found:
        file = re.match(r"# ([\w/]+\.(?:py|yaml))\n", text)
        if file is not None:
            Path(file[1]).parent.mkdir(parents=True, exist_ok=True)
            Path(file[1]).write_text(text, encoding="utf-8")
        elif language == "python":
            exec(compile(text, f"{guide.name} (block)", "exec"), names)  # noqa: S102
        elif language == "sh":
            run_lines(text)
    assert len(guide.read_text(encoding="utf-8").splitlines()) <= 80, "short enough to be read"


def run_lines(text: str) -> None:
    for line in text.strip().splitlines():
        program, flag, package, *words = shlex.split(line, comments=True)
        assert (program, flag, package) == ("python", "-m", "harness")
        assert main(words) == 0, line


def own_policy() -> None:
    """Write the file that README's section on an own policy shows."""
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    section = page.split("## A policy of your own")[1].split("\n## ")[0]
    name = re.search(r"file `(my_\w+\.py)`", section)
    code = next(text for language, text in blocks(section) if language == "python")
    assert name is not None
    Path(name[1]).write_text(code, encoding="utf-8")
    assert "python -m harness run policy.order.name=my_orders.Longest" in section


def test_readmes_policy_admits_the_longest_first_in_the_simulator() -> None:
    own_policy()
    words = ["policy.order.name=my_orders.Longest", "workload=all_at_once", "trace.head=40", "engine.max_running=4"]
    assert main(["run", *words, "hydra.run.dir=run"]) == 0
    admitted = load_run(Path("run")).requests
    first = admitted[admitted["parent_id"].isna()].nsmallest(4, "scheduled_s")
    assert first["prompt_tokens"].min() >= admitted[admitted["parent_id"].isna()]["prompt_tokens"].median()


@pytest.mark.skipif(find_spec("torch") is None, reason="the runtime needs torch")
def test_readmes_policy_runs_in_the_real_server(monkeypatch: pytest.MonkeyPatch) -> None:
    own_policy()
    words = ["policy.order.name=my_orders.Longest", "workload=all_at_once", "trace.head=8", "trace.cap_output_tokens=4"]
    served = ["backend=runtime", "model=tiny", "hardware=cpu", "hydra.run.dir=run"]
    assert main(["run", *words, *served]) == 0
    run = load_run(Path("run"))
    assert run.config["policy"]["order"]["name"] == "my_orders.Longest"
    assert run.summary["counts"]["ok"] == 8

"""Parts of a measurement on a GPU: one that fails or takes too long costs the others nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.benchmarks import engine_table
from tests.benchmarks.engine_table import Figures
from tests.benchmarks.parts import LOG, Part, run_parts


def module(folder: Path, name: str, body: str) -> list[str]:
    """A module to run."""
    (folder / f"{name}.py").write_text(body)
    return [name]


def test_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = tmp_path / "done"
    done.touch()
    hangs = "import time\nprint('begun')\ntry:\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    print('kept')\n"
    parts = [
        Part("dies", module(tmp_path, "dies", "raise SystemExit('of its own accord')"), 5.0),
        Part("hangs", module(tmp_path, "hangs", hangs), 2.0),
        Part("speaks", module(tmp_path, "speaks", "print('the figures')"), 5.0),
        Part("was there", ["nowhere"], 5.0, done),
        Part("too long", ["nowhere"], 1000.0),
    ]
    told = []

    def tell(part: Part, said: str) -> str:
        told.append((part.name, said))
        if part.name == "dies":
            raise ValueError("half a file")
        return f"table of {part.name}"

    code = run_parts(parts, tmp_path / "out", 40.0, tell)
    assert code == 124
    assert told == [("dies", "of its own accord\n"), ("hangs", "begun\nkept\n"), ("speaks", "the figures\n")]
    shown = capsys.readouterr().out
    for line in ("(ValueError: half a file)", "table of speaks", "was there: there already", "too long: left out"):
        assert line in shown
    log = (tmp_path / "out" / LOG).read_text()
    assert [line.split(maxsplit=1)[1] for line in log.splitlines() if "===" not in line] == [
        "of its own accord",
        "begun",
        "kept",
        "the figures",
    ]


def test_a_table_of_engines_names_the_peer_once(tmp_path: Path) -> None:
    engines = [
        Figures(
            "qwen3_8b", "H100", "bf16", 1, 1.0, {1: 6.0, 64: 9.0}, {1: 5.0, 64: 6.0}, prefill=42_000.4, offline=8e3
        ),
        Figures("qwen3_8b", "H100", "fp8", 1, 1.0, {1: 4.0}, {1: 3.0}),
        Figures("other", "H100", "bf16", 1, 1.0),
    ]
    path = tmp_path / "deep" / "engines.json"
    engine_table.save(engines, path)
    assert engine_table.load(path) == engines
    assert engine_table.load(tmp_path / "nothing") == []
    lines = engine_table.markdown(engines).splitlines()
    assert "batch 1 / 64" in lines[0]
    assert lines[2:] == [
        "| qwen3_8b | bf16 | 8,000 | 6.00 / 9.00 | 1.20 / 1.50 | 42,000 |",
        "| qwen3_8b | mini-sglang | 7,600 | 6.78 / 9.66 | | 42,450 |",
        "| qwen3_8b | fp8 | - | 4.00 / - | 1.33 / - | - |",
        "| other | bf16 | - | - / - | - / - | - |",
    ]

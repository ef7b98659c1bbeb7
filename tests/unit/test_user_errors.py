"""What a user's mistake gets, whichever the command: one clear line, exit code 2, no traceback."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

from harness import cli
from harness.complaint import complain, first_line

# For each command: words with one mistake, and what the line must name.
MISTAKES = [
    ("run", ["engine.page_size=0"], "page_size=0"),
    ("run", ["trace.path=nowhere.jsonl"], "nowhere.jsonl"),
    ("run", ["polcy=vllm"], "'polcy'"),
    ("run", ["-m", "tp=0,1", "trace.head=2", "hydra.sweep.dir=out"], "tp=0"),
    ("sweep", ["policy=vlm"], "'policy/vlm'"),
    ("sweep", ["tp=1,2", "--plot", "map.xyz"], "map.xyz"),
    ("capacity", ["slo=llama3_8b", "--out", "probes.xlsx"], "--out probes.xlsx"),
    ("compare", ["nowhere", "here"], "nowhere"),
    ("report", ["nowhere"], "nowhere"),
    ("trace", ["stats", "nowhere"], "'nowhere'"),
    ("trace", ["stats", "chat", "--window-s", "-1"], "window_s is -1.0"),
    ("trace", ["convert", "chat", "chat.xyz"], "'xyz'"),
    ("trace", ["generate", "chat.jsonl", "--rate", "0"], "rate is 0.0"),
    ("trace", ["fetch", "nowhere"], "nowhere"),
    ("cache", ["chat", "--policies", "lifo"], "--policies lifo"),
    ("cache", ["chat", "--plot", "curves.xyz"], "curves.xyz"),
    ("serve", ["backend.device=tpu"], "backend.device=tpu"),
    ("parity", ["--policies", "vlm"], "'policy/vlm'"),
    ("parity", ["--policies", "order=no_such.Order"], "policy.order.name=no_such.Order"),
    ("calibrate", ["--seconds", "0"], "--seconds 0"),
    ("calibrate", ["from=nowhere.json"], "nowhere.json"),
    ("validate", ["nowhere", "here"], "nowhere"),
    ("bench", ["--trace", "nowhere"], "'nowhere'"),
    ("doctor", ["--port", "0"], "argument --port: 0"),
]


def test_every_command_is_tried() -> None:
    assert {command for command, _, _ in MISTAKES} == set(cli._COMMANDS)


@pytest.mark.parametrize(("command", "words", "named"), MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_2(
    command: str,
    words: list[str],
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if command == "serve":
        pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    assert cli.main([command, *words]) == 2
    said = capsys.readouterr().err
    assert "Traceback" not in said
    # argparse says how a command is used, and then what is wrong.
    *usage, line = said.splitlines()
    assert not usage or usage[0].startswith("usage: ")
    assert line.startswith(f"harness {command}")
    assert named in line


@pytest.mark.parametrize("command", cli._COMMANDS)
def test_an_interrupt_is_exit_code_130(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(import_module(cli._COMMANDS[command][0]), "main", interrupted)
    assert cli.main([command]) == 130


def test_a_fault_of_ours_is_no_mistake_of_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: list[str]) -> int:
        raise ValueError("a bug")

    monkeypatch.setattr(import_module("harness.commands.bench"), "main", broken)
    with pytest.raises(ValueError, match="a bug"):
        cli.main(["bench"])


def test_whoever_says_it_says_it_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    complain("harness run", "tp=3\n  does not   divide\t32")
    assert capsys.readouterr().err == "harness run: tp=3 does not divide 32\n"


@pytest.mark.parametrize(
    ("said", "line"), [("\nline 3: a tab\n  here\n", "line 3: a tab"), ("one line", "one line"), ("", "")]
)
def test_of_a_library_s_message_the_first_line_is_told(said: str, line: str) -> None:
    assert first_line(ValueError(said)) == line

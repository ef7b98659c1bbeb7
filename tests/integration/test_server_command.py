"""``harness serve``: the built-in model, from a terminal."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("uvicorn")
httpx = pytest.importorskip("httpx")

from harness.cli import main  # noqa: E402
from harness.commands.serve import _config, _parser  # noqa: E402


@pytest.fixture
def short_tmp() -> Iterator[Path]:
    """A directory with room for socket files: their paths must be short, and tmp_path's are not under xdist."""
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        yield Path(directory)


@pytest.mark.parametrize("ending", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_a_signal_and_leaves_nothing(short_tmp: Path, ending: signal.Signals) -> None:
    command = [sys.executable, "-m", "harness", "serve", "tp=2", "engine.max_context=256"]
    environment = {**os.environ, "TMPDIR": str(short_tmp)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as serve:
        assert serve.stderr is not None
        said, found = [], None
        while found is None:  # before it the workers tell how far they are
            said.append(serve.stderr.readline())
            assert said[-1], said
            found = re.search(r"serving tiny at (http://127\.0\.0\.1:\d+)/v1", said[-1])
        body = {"model": "tiny", "prompt": "Once upon a time", "max_tokens": 12, "temperature": 0, "ignore_eos": True}
        with httpx.Client(base_url=found[1], trust_env=False) as http:
            answers = [http.post("/v1/completions", json=body).json() for _ in range(2)]
        serve.send_signal(ending)
        assert serve.stderr.read() == ""
        assert serve.wait() == 0
    assert answers[0]["usage"]["completion_tokens"] == 12
    assert answers[0]["choices"][0]["text"] == answers[1]["choices"][0]["text"]
    assert list(short_tmp.iterdir()) == []


def test_the_shell_chats_and_keeps_the_conversation() -> None:
    command = [sys.executable, "-m", "harness", "serve", "--shell", "engine.max_context=256", "engine.pages=64"]
    done = subprocess.run(command, input="Hi\nAnd then?\n", capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("> ") >= 3


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["modle=tiny"], "'modle'"),
        (["tp=two"], "tp=two"),
        (["tp=0"], "tp=0"),
        (["engine.pages=0"], "pages=0"),
        (["engine.overlap=maybe"], "engine.overlap=maybe"),
        (["backend.device=tpu"], "backend.device=tpu: choose from cpu, cuda"),
        (["engine.max_context=99999"], "positions end at 8192"),
        (["policy.order.name=alphabetical"], "order.name=alphabetical"),
        (["model.path=/nowhere"], "/nowhere"),
        (["--port", "70000"], "port=70000"),
    ],
)
def test_a_wrong_setting_is_one_line_and_exit_code_2(
    words: list[str], names: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", *words]) == 2
    said = capsys.readouterr().err
    assert names in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "batching", "reservation"),
    [([], "chunked", "none"), (["policy=radix"], "prefill_first", "full")],
)
def test_decodes_go_on_beside_prompts_unless_another_policy_is_asked_for(
    words: list[str], batching: str, reservation: str
) -> None:
    policy = _config(_parser().parse_intermixed_args(words)).policy
    assert (policy["batching"]["name"], policy["reservation"]["name"]) == (batching, reservation)


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--help"]) == 0
    assert "python -m harness serve" in capsys.readouterr().out

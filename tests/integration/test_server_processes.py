"""What becomes of a server whose processes die, and what it leaves behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("uvicorn")

from runtime.engine.params import GREEDY
from runtime.messages import Request, TextPrompt
from runtime.server.client import Client
from runtime.server.config import EngineSpec, ServerError
from runtime.server.launch import Server, ServerDiedError

WITHIN_S = 10.0
SERVE = """
import json
from runtime.scheduler import SchedulerConfig
from runtime.server.config import EngineSpec, ServerConfig
from runtime.server.launch import Server

names = {"order": "fcfs", "batching": "prefill_first", "reservation": "full", "preemption": "newest", "eviction": "lru",
         "prediction": "max_tokens"}
policy = {part: {"name": name} for part, name in names.items()}
server = Server(ServerConfig(model="tiny", vocab_size=259, scheduler=SchedulerConfig(64, 4, 4, 64), policy=policy,
                             engine=EngineSpec("runtime.engine.emulated.build", {"vocab_size": 128})))
server.start()
print(json.dumps([str(server.directory), server.pids]), flush=True)
server.wait()
"""


def gone(pid: int) -> bool:
    """Whether a process is no more, or only its parent's to reap."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_until(holds: Any) -> None:
    deadline_s = time.monotonic() + WITHIN_S
    while not holds():
        assert time.monotonic() < deadline_s
        time.sleep(0.02)


@pytest.mark.parametrize("victim", ["api", "tokenizer.1", "worker.0", "worker.1", "detokenizer"])
def test_one_process_killed_ends_the_server_with_its_name_and_leaves_nothing(start: Any, victim: str) -> None:
    with start(tp=2, tokenizers=2, step_s=0.01) as server:
        client = Client(server.directory, server.config)
        for number in range(8):
            client.send(Request(number, "client", TextPrompt("Once upon a time"), 400, GREEDY))
        client.receive(1.0)
        os.kill(server.pids[victim], signal.SIGKILL)
        with pytest.raises(ServerDiedError, match=rf"^{victim} \(pid \d+\) died: killed by signal 9$"):
            server.wait()
        client.close()
        assert all(gone(pid) for pid in server.pids.values())
        assert not server.directory.exists()


@pytest.mark.parametrize("victim", ["worker.1", "detokenizer"])
def test_one_process_that_hangs_ends_the_server_with_its_name_and_leaves_nothing(start: Any, victim: str) -> None:
    with start(tp=2, step_s=0.01, stall_s=3.0) as server:
        client = Client(server.directory, server.config)
        for number in range(8):
            client.send(Request(number, "client", TextPrompt("Once upon a time"), 400, GREEDY))
        client.receive(1.0)
        stopped_s = time.monotonic()
        os.kill(server.pids[victim], signal.SIGSTOP)
        with pytest.raises(ServerDiedError, match=rf"^{victim} \(pid \d+\) hangs: no sign of life for .*stall_s=3"):
            server.wait()
        assert time.monotonic() - stopped_s < WITHIN_S
        client.close()
        assert all(gone(pid) for pid in server.pids.values())
        assert not server.directory.exists()


def test_a_launcher_killed_takes_its_processes_with_it() -> None:
    launcher = subprocess.Popen([sys.executable, "-c", SERVE], stdout=subprocess.PIPE)
    assert launcher.stdout is not None
    with launcher.stdout:
        directory, pids = json.loads(launcher.stdout.readline())
    launcher.kill()
    launcher.wait()
    wait_until(lambda: all(gone(pid) for pid in pids.values()))
    wait_until(lambda: not Path(directory).exists())


def test_a_process_that_dies_is_quoted(start: Any) -> None:
    with (
        pytest.raises(ServerDiedError, match=r"worker\.0 .* exit code 1; its last words:(.|\n)*KeyError: 'vocab_size'"),
        start(http=False, engine=EngineSpec("runtime.engine.emulated.build", {})),
    ):
        pass


def test_the_directory_is_private_and_removed(start: Any) -> None:
    with start(http=False) as server:
        assert server.directory.stat().st_mode & 0o777 == 0o700
    assert not server.directory.exists()
    assert all(gone(pid) for pid in server.pids.values())


def test_stopping_finishes_what_was_asked(start: Any) -> None:
    with start(http=False, step_s=0.005, tp=2) as server:
        client = Client(server.directory, server.config)
        for number in range(4):
            client.send(Request(number, "client", TextPrompt("Once upon a time"), 30, GREEDY))
        pieces = client.receive(5.0)
        server.stop(20.0)
        pieces += client.receive(1.0)
        assert sum(len(piece.tokens) // 4 for piece in pieces) == 120
        client.close()


@pytest.mark.parametrize(
    ("settings", "names"),
    [
        ({"engine": EngineSpec("runtime.engine.nothing.build", {})}, "engine.factory=runtime.engine.nothing.build"),
        ({"policy": {"order": {"name": "alphabetical"}}}, "policy.order.name=alphabetical"),
        ({"tokenizer": "/nowhere"}, "no tokenizer.json"),
        ({"host": "192.0.2.1"}, "host=192.0.2.1"),
    ],
)
def test_what_cannot_be_started_is_one_line_that_names_the_knob(start: Any, settings: Any, names: str) -> None:
    with pytest.raises(ServerError, match=names) as raised, start(**settings):
        pass
    assert "\n" not in str(raised.value)


def test_a_path_too_long_for_sockets_is_one_line(start: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with pytest.raises(ServerError, match="too long a path for socket files"), start():
        pass
    assert list(deep.iterdir()) == []


def test_a_busy_port_is_one_line(start: Any, server: Server) -> None:
    port = int(server.url.rpartition(":")[2])
    with pytest.raises(ServerError, match=rf"port={port}: Address already in use; .*port=0"), start(port=port):
        pass

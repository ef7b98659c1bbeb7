"""Replays through servers that are really there."""

from __future__ import annotations

import itertools
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from harness import experiment
from harness.cli import main
from harness.metrics.files import load_run
from harness.progress import Progress
from runtime.server.launch import Server

pytest.importorskip("torch", reason="the real server needs the runtime extra")

SMALL = ("model=tiny", "hardware=cpu", "trace.head=40", "trace.rate=40", "hydra.run.dir=run")


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*words: str) -> int:
    return main(["run", *SMALL, *words])


@pytest.mark.parametrize("client", ["direct", "http"])
def test_every_request_is_accounted_for(client: str, tmp_path: Path) -> None:
    assert run("backend=runtime", f"backend.client={client}") in (0, 3)  # 3: a busy machine made the client late
    table = load_run(tmp_path / "run").requests
    assert (table["status"] == "ok").all()
    assert (table["output_tokens"] == table["max_tokens"]).all()
    moments = ["received_s", "tokenized_s", "queued_s", "scheduled_s", "first_token_s", "last_token_s", "detokenized_s"]
    for earlier, later in itertools.pairwise(moments):
        assert (table[earlier] <= table[later]).all(), f"{earlier} before {later}"
    assert (table["client_last_token_s"] >= table["last_token_s"]).all()


@pytest.mark.parametrize("client", ["direct", "http"])
def test_what_the_scheduler_counted_reaches_the_table(client: str, tmp_path: Path) -> None:
    tight = ("policy=vllm", "engine.pages=2600", "engine.page_size=1", "workload=all_at_once")
    short = ("trace.cap_prompt_tokens=500", "trace.cap_output_tokens=100")
    words = ("backend=emulate", "backend.instant=true", f"backend.client={client}", *tight, *short)
    assert run(*words, "token_times=true") in (0, 3)
    left = load_run(tmp_path / "run")
    table = left.requests
    assert (table["status"] == "ok").all()
    came = left.tokens.groupby("request_id").size()
    assert came.to_dict() == table.set_index("request_id")["output_tokens"].to_dict()
    assert (table["chunks"] > 0).all()
    preempted = table["preemptions"] > 0
    assert preempted.any()
    assert (table["recomputed_tokens"][preempted] > 0).any()
    assert (table["preempted_s"][preempted] > 0).all()
    assert (table["preempted_s"][~preempted] == 0).all()


def test_sessions_wait_for_the_turn_before(tmp_path: Path) -> None:
    assert run("backend=emulate", "backend.instant=true", "trace.head=120", "trace.time_scale=0.05") in (0, 3)
    table = load_run(tmp_path / "run").requests.set_index("request_id")
    later = table[table["parent_id"].notna()]
    assert len(later) > 5
    ended = table.loc[later["parent_id"].astype(int), "client_last_token_s"].to_numpy()
    assert (later["sent_s"].to_numpy() >= ended).all()


def test_a_request_that_does_not_fit_is_rejected_and_the_run_goes_on(tmp_path: Path) -> None:
    assert run("backend=emulate", "backend.instant=true", "engine.max_context=1000") in (0, 3)
    counts = load_run(tmp_path / "run").summary["counts"]
    assert counts["rejected"] > 0
    assert counts["ok"] + counts["rejected"] == 40


@pytest.mark.parametrize("by_text", ["false", "true"])
def test_any_openai_compatible_server_is_an_endpoint(by_text: str, server: Server, tmp_path: Path) -> None:
    words = (f"backend.url={server.url}", f"backend.by_text={by_text}", "trace.cap_total_tokens=60", "trace.head=20")
    assert run("backend=endpoint", *words) in (0, 3)
    left = load_run(tmp_path / "run")
    assert (left.requests["status"] == "ok").all()
    assert (left.requests["output_tokens"] == left.requests["max_tokens"]).all()
    inside = ["scheduled_s", "chunks", "preemptions", "recomputed_tokens", "preempted_s"]
    assert left.requests[inside].isna().all(axis=None)  # what goes on inside is not known
    # Words are several tokens each to a tokenizer of bytes: the error is told.
    assert (left.summary["server"]["prompt_tokens_error_mean"] > 0) == (by_text == "true")


def test_an_endpoint_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("backend=endpoint", "backend.url=http://127.0.0.1:9") == 2
    error = capsys.readouterr().err
    assert "http://127.0.0.1:9" in error
    assert error.count("\n") == 1


def _children(pid: int) -> set[int]:
    """Process ids of a process's children."""
    found = set()
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if f"\nPPid:\t{pid}\n" in (path / "status").read_text():
                found.add(int(path.name))
        except OSError:
            continue
    return found


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds child processes in /proc")
def test_a_rank_that_hangs_ends_the_run_with_what_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The other rank waits for it in an all-reduce, and no process dies."""
    replay = experiment.replay
    others = _children(os.getpid())

    def replay_and_stop(config: Any, trace: Any, progress: Any) -> Any:
        def watch(now: Progress) -> bool:
            if now.ended >= 3 and not stopped:
                stopped.append(time.monotonic())
                _, _, rank_1, _ = sorted(_children(os.getpid()) - others)  # tokenizer, ranks, detokenizer
                os.kill(rank_1, signal.SIGSTOP)
            return bool(progress(now))

        stopped: list[float] = []
        record = replay(config, trace, watch)
        assert time.monotonic() - stopped[0] < 15
        return record

    monkeypatch.setattr(experiment, "replay", replay_and_stop)
    assert run("backend=runtime", "tp=2", "backend.stall_s=3", "trace.rate=4") == 1
    error = capsys.readouterr().err
    assert "harness run: worker.1 (pid" in error
    assert "hangs: no sign of life for" in error
    partial = load_run(tmp_path / "run")
    assert not partial.complete
    assert partial.summary["counts"]["ok"] >= 3
    assert partial.summary["counts"]["unfinished"] > 0
    assert _children(os.getpid()) <= others


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="finds child processes in /proc")
@pytest.mark.parametrize("victim", [0, 1, 2], ids=["tokenizer", "worker", "detokenizer"])
def test_a_killed_process_ends_the_run_with_what_was_measured(
    victim: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    replay = experiment.replay
    others = _children(os.getpid())  # another test's server may be up

    def replay_and_kill(config: Any, trace: Any, progress: Any) -> Any:
        def watch(now: Progress) -> bool:
            if now.ended >= 3 and not killed:
                killed.append(time.monotonic())
                os.kill(sorted(_children(os.getpid()) - others)[victim], signal.SIGKILL)
            return bool(progress(now))

        killed: list[float] = []
        record = replay(config, trace, watch)
        assert time.monotonic() - killed[0] < 10
        return record

    monkeypatch.setattr(experiment, "replay", replay_and_kill)
    assert run("backend=emulate", "trace.rate=8") == 1
    error = capsys.readouterr().err
    assert "died: killed by signal 9" in error
    partial = load_run(tmp_path / "run")
    assert not partial.complete
    assert partial.summary["counts"]["ok"] >= 3
    assert partial.summary["counts"]["unfinished"] > 0
    assert _children(os.getpid()) <= others

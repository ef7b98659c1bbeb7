"""``harness run`` from its words to its run directory and exit code."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.cli import main
from harness.metrics.files import load_run

SMALL = ["trace.head=60", "hydra.run.dir=run"]


@pytest.fixture(autouse=True)
def _in_an_empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def run(*words: str) -> int:
    return main(["run", *words])


def test_a_run_leaves_its_tables_and_prints_the_block(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*SMALL) == 0
    said = capsys.readouterr().out
    assert "Serving Benchmark Result" in said
    assert "Run directory: run" in said
    left = {path.name for path in (tmp_path / "run").iterdir()}
    assert left >= {"config.yaml", "environment.json", "requests.parquet", "steps.parquet", "summary.json"}
    table = load_run(tmp_path / "run").columns
    moments = [
        "arrival_s",
        "sent_s",
        "received_s",
        "tokenized_s",
        "queued_s",
        "scheduled_s",
        "first_token_s",
        "last_token_s",
        "detokenized_s",
        "sent_back_s",
    ]
    for earlier, later in itertools.pairwise(moments):
        assert (table[earlier] <= table[later]).all(), f"{later} before {earlier}"
    assert (table["client_first_token_s"] > table["first_token_s"]).all()
    assert (table["status"] == 0).all()


def test_why_requests_were_rejected_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*SMALL, "engine.pages=1") == 0
    assert "60 requests did not end well, the first: request 0: 529 prompt" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trace.path=a,b.csv", "trace.head=~/x"], "an override cannot be read"),
        (["trace.path=~/a.csv"], "twice: \"trace.path='my file.csv'\""),
        (["policy=foo"], "Available options in 'policy': naive radix sarathi sglang vllm"),
        (["policy/eviction=foo"], " lru "),
        (["policy.order.name=foo"], "Choose one of fcfs, lpm, k_lpm, "),
        (["policy.order.name=no.such.Order"], "cannot import 'no'"),
        (["+policy.order.alpha=2"], "Parameters of Fcfs: none"),
        (["policy.batching.step_tokens=0"], "policy.batching.step_tokens=0"),
        (["policy.reservation.name=ratio", "+policy.reservation.start=2"], "policy.reservation.start=2"),
        (["tp=abc"], "tp=abc"),
        (["tp=3"], "tp=3 does not divide"),
        (["nonsense=1"], "'nonsense'"),
        (["trace.path=/no/such/file"], "/no/such/file"),
        (["trace=foo"], "chat"),
        (["trace.head=0"], "head"),
        (["trace.sample=2"], "2"),
        (["model=llama3_70b", "hardware=l40s"], "does not fit"),
        (["model.path=/no/such/model"], "/no/such/model"),
        (["engine.page_size=0"], "page_size=0"),
        (["engine.max_running=0"], "engine.max_running=0"),
        (["workload.arrivals=never"], "open, closed, all_at_once"),
        (["workload=closed", "workload.concurrency=0"], "workload.concurrency=0"),
        (["backend.name=magic"], "choose from sim"),
        (["backend.hops.hop_s=-1"], "backend.hops.hop_s=-1"),
        (["slo=foo"], "llama3_8b"),
        (["slo.ttft_s=-1"], "slo.ttft_s=-1"),
        (["hydra.run.dir=/proc/nowhere/run"], "hydra.run.dir"),
        (["trace=generated", "+trace.generate.speed=1"], "trace.generate.speed"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*words) == 2
    error = capsys.readouterr().err
    assert error.startswith("harness run: ")
    assert error.count("\n") == 1
    assert said in error


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "empty"),
        ('{"timestamp": 0, "input_length": 5, "output_length": 1, "hash_ids": [1]}\n{"timestamp": 0,', "line 2"),
        ('{"timestamp": 0, "input_length": 0, "output_length": 5, "hash_ids": []}\n', "input_length"),
        ('{"timestamp": -5, "input_length": 5, "output_length": 5, "hash_ids": [1]}\n', "timestamp"),
        ('{"timestamp": NaN, "input_length": 5, "output_length": 5, "hash_ids": [1]}\n', "line 1"),
        ("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 12\n", "Git LFS"),
    ],
)
def test_a_bad_trace_is_named_with_its_line(
    content: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.jsonl").write_text(content)
    assert run("trace.path=bad.jsonl") == 2
    error = capsys.readouterr().err
    assert said in error
    assert "bad.jsonl" in error


def test_a_request_beyond_the_context_is_rejected_and_the_run_goes_on(tmp_path: Path) -> None:
    assert run(*SMALL, "engine.max_context=1200") == 0
    counts = load_run(tmp_path / "run").summary["counts"]
    assert counts["rejected"] > 0
    assert counts["ok"] > 0
    assert counts["ok"] + counts["rejected"] == 60


def test_a_request_beyond_the_kv_memory_is_rejected_and_the_run_goes_on(tmp_path: Path) -> None:
    assert run(*SMALL, "engine.pages=1000") == 0
    table = load_run(tmp_path / "run").requests
    rejected = table[table["status"] == "rejected"]
    assert len(rejected) > 0
    assert rejected["error"].str.contains("pages of KV, the server has 1000").all()


def test_a_sweep_runs_every_combination_and_ends_with_one_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("-m", "policy=radix,naive", "tp=1,2", "trace.head=20", "hydra.sweep.dir=sweep") == 0
    runs = sorted(path.parent.name for path in (tmp_path / "sweep").glob("*/summary.json"))
    assert len(runs) == 4
    said = capsys.readouterr().out
    for name in ("policy=radix tp=1", "policy=radix tp=2", "policy=naive tp=1", "policy=naive tp=2"):
        assert name in said


def test_a_policy_in_a_users_own_file(tmp_path: Path) -> None:
    (tmp_path / "my_orders.py").write_text(
        "from policies.order import Order\n\n\n"
        "class Longest(Order):\n"
        "    def key(self, sequence):\n"
        "        return -sequence.prompt_tokens\n"
    )
    assert run(*SMALL, "policy.order.name=my_orders.Longest", "workload=all_at_once") == 0
    assert "my_orders.Longest" in (tmp_path / "run" / "config.yaml").read_text()


def test_a_users_own_configuration_directory(tmp_path: Path) -> None:
    (tmp_path / "conf" / "policy").mkdir(parents=True)
    (tmp_path / "conf" / "policy" / "mine.yaml").write_text(
        "defaults:\n  - radix\n  - override eviction: fifo\n  - _self_\nname: mine\n"
    )
    assert run(*SMALL, "policy=mine") == 0
    assert load_run(tmp_path / "run").config["policy"]["eviction"] == {"name": "fifo"}


def test_the_same_seed_gives_byte_identical_tables(tmp_path: Path) -> None:
    for name, hash_seed in (("a", "1"), ("b", "2")):
        words = ["run", "policy=sglang", "engine.pages=9000", "trace.head=150", f"hydra.run.dir={name}"]
        subprocess.run(
            [sys.executable, "-m", "harness", *words],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
        )
    for table in ("requests.parquet", "steps.parquet"):
        assert (tmp_path / "a" / table).read_bytes() == (tmp_path / "b" / table).read_bytes()


def test_a_run_needs_no_torch_and_no_plots(tmp_path: Path) -> None:
    code = (
        "import sys; from harness.cli import main; code = main(['run', 'trace.head=5', 'hydra.run.dir=run'])\n"
        "heavy = {'torch', 'transformers', 'matplotlib', 'scipy', 'zmq'} & set(sys.modules)\n"
        "sys.exit(f'{heavy} imported' if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_interrupted_run_keeps_what_it_measured(tmp_path: Path) -> None:
    words = ["trace=generated", "trace.generate.requests=200000", "backend.leap=false", "hydra.run.dir=run"]
    process = subprocess.Popen(
        [sys.executable, "-m", "harness", "run", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / "config.yaml").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(4)  # some of it is simulated
    process.send_signal(signal.SIGINT)
    said, error = process.communicate(timeout=60)
    assert process.returncode == 130, error
    assert "Interrupted" in said
    partial = load_run(tmp_path / "run")
    assert not partial.complete
    assert 0 < partial.summary["counts"]["ok"] < 200_000
    assert partial.summary["counts"]["unfinished"] == 200_000 - partial.summary["counts"]["ok"]


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["--help"], ["run", "--help"], ["compare", "--help"], ["trace", "--help"], ["bench", "--help"]):
        assert main(words) == 0
        assert "python -m harness" in capsys.readouterr().out


def test_an_unknown_command_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fly"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("harness: 'fly' is no command")
    assert "run, sweep, capacity, compare" in error


def test_bash_completes_commands_and_overrides(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMP_LINE", "harness r")
    assert main(["-sc", "query=bash"]) == 0
    assert "run" in capsys.readouterr().out.split()
    monkeypatch.setenv("COMP_LINE", "harness run policy=")
    assert main(["-sc", "query=bash"]) == 0
    assert "policy=radix" in capsys.readouterr().out.split()


def test_sessions_wait_for_the_turn_before(tmp_path: Path) -> None:
    assert run("trace.head=300", "hydra.run.dir=run") == 0
    table = load_run(tmp_path / "run").requests.set_index("request_id")
    later = table[table["parent_id"].notna()]
    assert len(later) > 50
    ended = table.loc[later["parent_id"].astype(int), "client_last_token_s"].to_numpy()
    assert (later["arrival_s"].to_numpy() >= ended).all()


def test_think_times_that_nobody_waits_out_are_noted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("s.csv").write_text("arrival_s,prompt_tokens,output_tokens,session_id,think_s\n0,9,2,1,0\n1,9,2,1,5\n")
    assert run("trace.path=s.csv", "hydra.run.dir=run") == 0
    assert "think_s without parent_id: no request waits for another" in capsys.readouterr().out


def test_a_closed_loop_keeps_to_its_concurrency(tmp_path: Path) -> None:
    words = ["trace=generated", "trace.generate.requests=80", "workload=closed", "workload.concurrency=4"]
    assert run(*words, "hydra.run.dir=run") == 0
    run_left = load_run(tmp_path / "run")
    steps = run_left.steps
    assert (steps["waiting"] + steps["running"]).max() == 4
    assert run_left.summary["counts"]["ok"] == 80


def test_summary_is_json_without_nan(tmp_path: Path) -> None:
    assert run(*SMALL) == 0
    text = (tmp_path / "run" / "summary.json").read_text()
    assert "NaN" not in text
    assert json.loads(text)["metrics"]["ttft_s"]["count"] == 60

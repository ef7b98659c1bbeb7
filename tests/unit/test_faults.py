"""What a user gets where a package is missing, their own policy raises, the disk is full, or they press Ctrl-C."""

from __future__ import annotations

import errno
import os
import pickle
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from harness.cli import main
from harness.config import ConfigError
from harness.extras import EXTRAS, not_installed
from harness.faults import PolicyFault, explained, in_one_line
from harness.sweep.cell import CellTask, run_cell, status_of
from harness.sweep.grid import expand
from traces.generate import Distribution, SyntheticWorkload, generate
from traces.writers import write

ROOT = Path(__file__).resolve().parents[2]
IMPORTED_AS = {"pyzmq": "zmq", "prometheus-client": "prometheus_client", "flashinfer-python": "flashinfer"}
FAULTY = """\
from policies.eviction import LeafHeap
from policies.order import Order


class Divides(Order):
    def key(self, sequence):
        return 1 / 0


class Nothing(Order):
    def key(self, sequence):
        return None if sequence.prompt_tokens % 2 else 1


class Misspelt(LeafHeap):
    def priority(self, node):
        return node.nosuch
"""


@pytest.fixture(autouse=True)
def _beside_faulty_policies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "faulty", raising=False)
    (tmp_path / "faulty.py").write_text(FAULTY)


def made() -> str:
    """A trace whose blocks all have one size."""
    write(generate(SyntheticWorkload(requests=50, turns=Distribution("geometric", 4)), name="made"), Path("made.jsonl"))
    return "made.jsonl"


# --- a missing package


@pytest.mark.parametrize(
    ("words", "package", "extra"),
    [
        (["run", "backend=emulate", "trace.head=2"], "zmq", "runtime"),
        (["run", "backend=runtime", "model=tiny", "hardware=cpu", "trace.head=2"], "torch", "runtime"),
        (["run", "backend=endpoint", "trace.head=2"], "aiohttp", "runtime"),
        (["serve"], "zmq", "runtime"),
        (["parity", "--policies", "vllm", "--backends", "emulate", "trace.head=2"], "zmq", "runtime"),
        (["calibrate", "model=tiny", "hardware=cpu"], "zmq", "runtime"),
        (["validate", "model=tiny", "hardware=cpu"], "zmq", "runtime"),
        (["sweep", "tp=1,2", "trace.head=2", "--ray", "local"], "ray", "sweep"),
    ],
)
def test_a_package_that_is_missing_is_named_with_the_extra_that_brings_it(
    words: list[str], package: str, extra: str
) -> None:
    hidden = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "import importlib.util as util; found = util.find_spec\n"
        f"util.find_spec = lambda name, *rest: None if name == {package!r} else found(name, *rest)\n"
        f"from harness.cli import main; sys.exit(main({words!r}))"
    )
    done = subprocess.run([sys.executable, "-c", hidden], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr == f"harness {words[0]}: {package} is not installed: pip install 'servetwin[{extra}]'\n"


def test_in_a_sweep_it_is_the_cells_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for importer in ("harness.backends.endpoint", "harness.live.http"):
        monkeypatch.delitem(sys.modules, importer, raising=False)
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    (cell,) = expand(["backend=endpoint", "trace.head=2"])
    run_cell(CellTask(tmp_path / "sweep" / "cells" / "one", cell.config, keep_tables=False))
    assert (tmp_path / "sweep/cells/one/error.txt").read_text() == (
        "aiohttp is not installed: pip install 'servetwin[runtime]'\n"
    )


def test_every_package_of_an_extra_is_known() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extra, names in EXTRAS.items():
        asked = {re.split(r"[<>=\[]", requirement)[0] for requirement in extras[extra]} - {"servetwin"}
        assert {IMPORTED_AS.get(name, name) for name in asked} == set(names)


def test_a_module_of_ours_that_is_missing_is_our_fault() -> None:
    assert not_installed(ModuleNotFoundError("No module named 'harness.x'", name="harness.x")) is None
    assert not_installed(ModuleNotFoundError("", name="pandas")) == "pandas is not installed: pip install 'servetwin'"


# --- a policy that raises


def test_a_run_names_the_policy_what_it_raised_and_where(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "policy.order.name=faulty.Divides", "trace.head=5", "hydra.run.dir=run"]) == 2
    error = capsys.readouterr().err
    assert error == (
        "harness run: policy.order.name=faulty.Divides: ZeroDivisionError: division by zero (faulty.py:7); "
        "more in run/error.txt\n"
    )
    assert "Traceback" in Path("run/error.txt").read_text()


def test_a_policy_that_misleads_the_scheduler_is_named_too(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["policy.order.name=faulty.Nothing", "trace.head=9", "workload=all_at_once", "hydra.run.dir=run"]
    assert main(["run", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("harness run: with policy.order.name=faulty.Nothing: TypeError: '<' not supported")
    assert "lazy_heap.py:" in error


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("x = 1 / 0\n", "ZeroDivisionError: division by zero (early.py:1)"),
        ("class A:\n  def\n", "SyntaxError: invalid syntax (early.py:2)"),
        (
            "from policies.order import Order\nfrom policies.eviction import Lru\n\n\nclass Mine(Lru):\n"
            "    def __init__(self):\n        self.nosuch.x = 1\n",
            "AttributeError: 'Mine' object has no attribute 'nosuch' (early.py:7)",
        ),
    ],
)
def test_a_module_that_raises_is_named_too(
    module: str, said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "early", raising=False)
    Path("early.py").write_text(module)
    trace = made()
    assert main(["run", "policy.eviction.name=early.Mine", "trace.head=5"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"harness run: policy.eviction.name=early.Mine: {said}")
    assert main(["cache", trace, "--policies", "early.Mine", "--sizes", "400", "--block", "64"]) == 2
    assert capsys.readouterr().err == f"harness cache: --policies early.Mine: {said}\n"


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_the_cache_lab_names_it_whoever_ran_it(jobs: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--policies", "faulty.Misspelt", "--sizes", "400", "--block", "64", "--jobs", jobs]
    assert main(["cache", made(), *words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("harness cache: --policies faulty.Misspelt: AttributeError: 'Node' object has no attribute")
    assert error.endswith("(faulty.py:17)\n")


def test_a_dead_process_is_one_line(tmp_path: Path) -> None:
    failure = (
        "worker.0 (pid 7) died: exit code 1; its last words:\n"
        f'  File "{tmp_path}/faulty.py", line 7, in key\n'
        "    return 1 / 0\n"
        "  ZeroDivisionError: division by zero"
    )
    said = "worker.0 (pid 7) died: exit code 1: ZeroDivisionError: division by zero (faulty.py:7)"
    assert in_one_line(failure, {}) == said
    own = {"order": {"name": "faulty.Divides"}}
    assert in_one_line(failure, own) == f"policy.order.name=faulty.Divides: {said}"
    assert in_one_line("it hangs\nsince 60 s", {}) == "it hangs since 60 s"


def test_a_fault_crosses_processes_whole() -> None:
    fault = PolicyFault("one line")
    fault.details = "many\nlines"
    back = pickle.loads(pickle.dumps(fault))  # noqa: S301
    assert (str(back), back.details) == ("one line", "many\nlines")


def test_without_a_policy_of_the_users_own_a_fault_is_ours() -> None:
    with pytest.raises(ZeroDivisionError), explained({}):
        raise ZeroDivisionError
    with pytest.raises(ConfigError, match="a knob"), explained({"policy.order.name=faulty.Divides": object}):
        raise ConfigError("a knob")


# --- a full disk


def test_a_sweep_on_a_full_disk_stops_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    cell = tmp_path / "sweep" / "cells" / "one"
    (task,) = [CellTask(cell, each.config, keep_tables=False) for each in expand(["trace.head=2"])]
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(ConfigError, match=r"--out .*sweep: cannot be written .No space left on device"):
        run_cell(task)
    monkeypatch.undo()
    assert status_of(cell).value == "open"


# --- Ctrl-C


@pytest.mark.parametrize(
    "words",
    [
        ["cache", "made.jsonl", "--block", "16", "--jobs", "2"],
        ["sweep", "trace.rate=range(1,99)", "--out", "sweep", "--workers", "2"],
    ],
)
def test_an_interrupt_while_workers_begin_is_quiet(words: list[str]) -> None:
    made()
    process = subprocess.Popen(
        [sys.executable, "-m", "harness", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    process.stdout.readline()  # said before the workers are begun
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    _, error = process.communicate()
    assert process.returncode == 130
    assert error == ""

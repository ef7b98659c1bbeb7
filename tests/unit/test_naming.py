"""A run's directory says what was run, as far as the command set it apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.cli import main
from harness.naming import run_name


@pytest.mark.parametrize(
    ("backend", "words", "name"),
    [
        ("sim", [], "radix_chat"),
        ("emulate", ["backend=emulate"], "radix_chat_emulate"),
        ("sim", ["policy.order.name=my_orders.Longest"], "radix_Longest_chat"),
        ("sim", ["policy/order=sjf", "policy/eviction=lfu", "tp=2"], "radix_sjf_lfu_chat"),
        ("runtime", ["++policy.order.name=pkg.mod:Mine"], "radix_Mine_chat_runtime"),
        ("sim", ["trace.path='/data/my trace,1.csv'"], "radix_my-trace-1"),
    ],
)
def test_a_name_has_what_is_not_as_ever(backend: str, words: list[str], name: str) -> None:
    assert run_name("radix", "chat", backend, words) == name


def test_a_run_is_called_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "naming_orders.py").write_text(
        "from policies.order import Order\n\n\nclass First(Order):\n    def key(self, sequence):\n        return 0\n"
    )
    assert main(["run", "policy.order.name=naming_orders.First", "trace.head=3"]) == 0
    (run,) = tmp_path.glob("runs/*/*")
    assert run.name.endswith("_radix_First_chat")
    assert "policy radix with order naming_orders.First" in capsys.readouterr().out


def test_of_many_runs_each_has_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", "-m", "tp=1,3", "trace.head=3", "hydra.sweep.dir=many"]) == 2
    said = capsys.readouterr()
    assert "Serving Benchmark Result" not in said.out
    assert "0_tp=1,trace.head=3: 3 requests ok, " in said.out
    assert "failed: tp=3: tp=3 does not divide" in said.out
    assert Path("many/1_tp=3,trace.head=3/error.txt").read_text().startswith("tp=3 does not divide")

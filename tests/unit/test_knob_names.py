"""A mistake in a knob's name or value is said with the whole knob, and with the one that was meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.cli import main
from harness.compose import compose
from harness.config import ConfigError
from harness.knob_names import nearest


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("polcy=radix", "polcy=radix: there is no knob 'polcy'; did you mean policy?"),
        ("modle=tiny", "did you mean model?"),
        ("engine.pagesize=16", "did you mean engine.page_size?"),
        ("page_size=16", "did you mean engine.page_size?"),
        ("policy.ordr.name=sjf", "did you mean policy.order.name?"),
        (
            "policy.order.alpha=2",
            "a parameter that the choice of policy.order leaves out is added by +policy.order.alpha=2",
        ),
        ("trace.generate.rate=3", "it goes with trace=generated"),
        ("trace.generate.rat=3", "did you mean trace.generate.rate?"),
        ("xyzzy=3", "--cfg job` prints them all"),
        ("+polcy=radix", "+polcy: there is no such knob; did you mean policy?"),
        ("+engine.pagesize=16", "did you mean engine.page_size?"),
    ],
)
def test_the_knob_that_was_meant_is_named(word: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        compose([word])
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert "To append" not in str(error.value)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["trace.rate=-3"], "trace.rate=-3.0: "),
        (["trace.rate_scale=0"], "trace.rate_scale=0.0: "),
        (["trace.sample=2"], "trace.sample=2: "),
        (["trace.thin=x"], "trace.thin=x: "),
        (["trace.time_scale=0"], "trace.time_scale=0.0: "),
        (["trace.head=0"], "trace.head=0: "),
        (["trace.start_s=1e6"], "trace.start_s=1000000.0: "),
        (["trace.cap_total_tokens=1"], "trace.cap_total_tokens=1: "),
        (["engine.page_size=0"], "engine.page_size=0 "),
        (["engine.pages=0"], "engine.pages=0 "),
        (["engine.memory_fraction=1.5"], "engine.memory_fraction=1.5 "),
        (["engine.workspace_bytes=-1"], "engine.workspace_bytes=-1 "),
        (["trace=generated", "trace.generate.rate=-1"], "trace.generate.rate is -1"),
        (["trace=generated", "trace.generate.requests=abc"], "trace.generate.requests=abc: expected a whole number"),
        (["trace=generated", "trace.generate.input.mean=-1"], "trace.generate.input: lognormal mean is -1"),
        (["trace=generated", "trace.generate.input.mean=abc"], "trace.generate.input.mean=abc: expected a number"),
        (["trace=generated", "trace.generate.input=box"], "trace.generate.input: distribution 'box'"),
    ],
)
def test_a_wrong_value_is_said_with_its_whole_knob(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", *words, "hydra.run.dir=run"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"harness run: {said}")
    assert error.count("\n") == 1


def test_a_page_of_no_tokens_is_refused_by_the_real_server_too() -> None:
    pytest.importorskip("torch")
    from harness.backends.runtime import runtime_of

    with pytest.raises(ConfigError, match=r"engine\.page_size=0"):
        runtime_of(compose(["backend=runtime", "model=tiny", "hardware=cpu", "engine.page_size=0"]))


def test_a_shared_beginning_is_not_enough_to_be_meant() -> None:
    assert nearest("policy.order.alpha", ["policy.order.name", "policy.order.seed"]) is None

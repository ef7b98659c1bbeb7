"""The cells of a sweep: read from Hydra's words, composed as Hydra composes, known by what they run."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.compose import compose
from harness.config import ConfigError, ExperimentConfig
from harness.sweep.grid import distinct, expand, identity


def words_of(*words: str) -> list[tuple[str, ...]]:
    return [cell.words for cell in expand(words)]


@pytest.mark.parametrize(
    ("word", "values"),
    [
        ("tp=1,2,4", ["tp=1", "tp=2", "tp=4"]),
        ("tp=range(1,4)", ["tp=1", "tp=2", "tp=3"]),
        ("tp=choice(1,8)", ["tp=1", "tp=8"]),
        ("policy/batching=glob(*_first)", ["policy/batching=decode_first", "policy/batching=prefill_first"]),
        ("trace.sample='1/8','1/4'", ["trace.sample='1/8'", "trace.sample='1/4'"]),
        ("+cost.x=1,2", ["+cost.x=1", "+cost.x=2"]),
    ],
)
def test_a_knob_has_several_values_in_hydras_syntax(word: str, values: list[str]) -> None:
    assert words_of(word) == [(value,) for value in values]


def test_every_combination_is_a_cell_and_the_last_knob_runs_fastest() -> None:
    assert words_of("policy=radix,vllm", "model=qwen3_8b", "tp=1,2") == [
        ("policy=radix", "tp=1"),
        ("policy=radix", "tp=2"),
        ("policy=vllm", "tp=1"),
        ("policy=vllm", "tp=2"),
    ]


def test_one_value_each_is_one_cell() -> None:
    (cell,) = expand(["tp=2"])
    assert cell.words == ()
    assert cell.config.tp == 2


def test_a_knob_that_is_named_twice_has_the_last_values() -> None:
    assert words_of("tp=1,2", "tp=4,8") == [("tp=4",), ("tp=8",)]


def test_an_experiment_sweeps_its_knobs_and_the_command_has_the_last_word() -> None:
    orders = [("policy/order=fcfs",), ("policy/order=sjf",), ("policy/order=lpm",), ("policy/order=random",)]
    assert words_of("experiment=order") == orders
    assert words_of("experiment=order", "policy/order=sjf,edf", "tp=1,2") == [
        ("policy/order=sjf", "tp=1"),
        ("policy/order=sjf", "tp=2"),
        ("policy/order=edf", "tp=1"),
        ("policy/order=edf", "tp=2"),
    ]
    (cell,) = expand(["policy/order=sjf", "experiment=order"])
    assert cell.config.policy["order"]["name"] == "sjf"
    assert cell.config.trace.generate is not None
    assert cell.config.trace.generate["requests"] == 800
    with pytest.raises(ConfigError, match=r"experiment=order,tp: .* name one experiment"):
        expand(["experiment=order,tp"])


def test_what_runs_the_same_is_one_cell() -> None:
    assert words_of("trace.rate=1,1.0,2") == [("trace.rate=1",), ("trace.rate=2",)]


def test_a_cell_is_known_by_its_configuration_not_by_its_words() -> None:
    (one,) = expand(["tp=2", "policy=radix"])
    (other,) = expand(["policy=radix", "tp=2", "backend=sim"])
    assert one.id == other.id
    among = {cell.words: cell.id for cell in expand(["policy=radix,vllm", "tp=1,2"])}
    assert among["policy=radix", "tp=2"] == one.id
    assert len(set(among.values())) == 4


@pytest.mark.parametrize(
    "word",
    ["trace.seed=1", "engine.pages=100", "backend.hops.hop_s=1e-6", "policy.batching.step_tokens=99", "slo.ttft_s=1"],
)
def test_every_knob_counts(word: str) -> None:
    assert expand([word])[0].id != expand(["tp=1"])[0].id


def test_the_name_does_not_count() -> None:
    config = compose([])
    assert identity(config) == identity(replace(config, name="another"))


def test_sweeps_are_told_apart_by_their_words_in_any_order() -> None:
    assert distinct(["a=1", "b=2"]) == distinct(["b=2", "a=1"]) != distinct(["a=1"])


KNOBS = {
    "policy": ["radix", "vllm", "sarathi"],
    "policy/eviction": ["lru", "slru"],
    "tp": ["1", "2"],
    "trace.rate": ["null", "0.5", "3"],
    "engine.pages": ["null", "1000"],
    "policy.batching.step_tokens": ["256", "4096"],
    "model.path": ["null", "'a b'"],
    "slo": ["none", "llama3_8b"],
    "+cost.extra": ["{a: 1}", "[1,2]"],
}


@settings(max_examples=8, deadline=None)
@given(st.lists(st.sampled_from(sorted(KNOBS)), min_size=1, max_size=3, unique=True), st.randoms())
def test_composing_many_gives_what_hydra_gives_for_each(knobs: list[str], random) -> None:
    cells = expand([f"{knob}={','.join(KNOBS[knob])}" for knob in knobs])
    cell = random.choice(cells)

    def unnamed(config: ExperimentConfig) -> ExperimentConfig:
        return replace(config, name="")

    assert unnamed(cell.config) == unnamed(compose(list(cell.words)))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["policy=radix,foo"], "Available options in 'policy'"),
        (["tp=1,abc"], "tp=abc"),
        (["nonsense=1,2"], "nonsense"),
        (["trace.rate=interval(1,2)"], "no finite number of values"),
        (["policy/order=glob(zzz*)"], "no value"),
        (["tp=(1,2"], "tp=(1,2"),
        (["tp"], "tp"),
        (["hydra.run.dir=here"], "--out"),
        (["name=mine"], "--out"),
    ],
)
def test_a_wrong_word_is_named_in_one_line(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        expand(words)
    assert said in str(error.value)
    assert "\n" not in str(error.value)

"""KV capacity: what is left of a GPU's memory, and the refusal of what does not fit."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from harness.cost.errors import CostConfigError, ModelDoesNotFit
from harness.cost.hardware import Hardware
from harness.cost.memory import GIB, kv_capacity
from harness.cost.model import ModelShape

CONF = Path(__file__).parents[2] / "conf"


def model(name):
    return ModelShape.from_config(OmegaConf.to_container(OmegaConf.load(CONF / "model" / f"{name}.yaml")))


def hardware(name):
    return Hardware.from_config(OmegaConf.to_container(OmegaConf.load(CONF / "hardware" / f"{name}.yaml")))


def test_qwen3_8b_on_one_h100():
    capacity = kv_capacity(model("qwen3_8b"), hardware("h100"))
    assert 380_000 < capacity.tokens < 450_000
    assert capacity.page_bytes == 147_456
    used = capacity.kv_bytes + capacity.weight_bytes + capacity.workspace_bytes
    assert used <= 0.9 * capacity.memory_bytes < used + capacity.page_bytes


def test_pages_round_down_to_whole_pages():
    small = kv_capacity(model("qwen3_8b"), hardware("h100"), page_size=1)
    large = kv_capacity(model("qwen3_8b"), hardware("h100"), page_size=64)
    assert large.pages == small.pages // 64
    assert large.tokens == 64 * large.pages


def test_more_room_more_tokens():
    def tokens(**options):
        return kv_capacity(model("qwen3_8b"), hardware("h100"), **options).tokens

    assert tokens(kv_dtype="fp8") == pytest.approx(2 * tokens(), rel=1e-5)
    assert tokens(tp=2) > 2 * tokens()
    assert tokens(weight_dtype="fp8") > tokens()
    assert tokens(memory_fraction=0.8) < tokens()
    assert tokens(workspace_bytes=GIB) - tokens(workspace_bytes=2 * GIB) == pytest.approx(GIB / 147_456, abs=1)


def test_replicated_kv_heads_hold_no_more_tokens_than_a_share():
    """From tp=4 to tp=8 the 4 KV heads are replicated: only the weights shrink."""
    moe, h100 = model("qwen3_30b_a3b"), hardware("h100")
    four, eight = kv_capacity(moe, h100, tp=4), kv_capacity(moe, h100, tp=8)
    assert eight.page_bytes == four.page_bytes
    assert eight.tokens < 1.5 * four.tokens


def test_given_pages_are_taken_as_they_are():
    assert kv_capacity(model("qwen3_8b"), hardware("h100"), pages=10**9).pages == 10**9
    assert kv_capacity(model("llama3_70b"), hardware("h100"), pages=7, page_size=16).tokens == 112


def test_a_model_that_does_not_fit_is_refused_with_the_numbers():
    with pytest.raises(ModelDoesNotFit) as refusal:
        kv_capacity(model("llama3_70b"), hardware("h100"))
    message = str(refusal.value)
    assert "\n" not in message
    for part in ("llama3_70b", "h100", "tp=1", "131.4 GiB", "2.0 GiB", "71.2 GiB", "79.1 GiB", "set tp=2"):
        assert part in message


def test_the_advised_tp_fits():
    for name in ("llama3_70b", "qwen3_32b", "qwen3_30b_a3b"):
        for device in ("rtx4090", "l40s", "a100_40"):
            with pytest.raises(ModelDoesNotFit) as refusal:
                kv_capacity(model(name), hardware(device))
            advised = int(str(refusal.value).split("set tp=")[1].split(",")[0])
            assert kv_capacity(model(name), hardware(device), tp=advised).pages > 0


def test_no_tp_is_advised_where_none_helps():
    with pytest.raises(ModelDoesNotFit, match=r"leave no KV page: take a smaller dtype"):
        kv_capacity(model("qwen3_0_6b"), hardware("h100"), workspace_bytes=100 * GIB)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"memory_fraction": 0.0}, r"memory_fraction=0\.0 must be above 0"),
        ({"memory_fraction": 1.5}, r"memory_fraction=1\.5 must be"),
        ({"memory_fraction": float("nan")}, r"memory_fraction=nan must be"),
        ({"page_size": 0}, r"page_size=0 must be at least 1"),
        ({"pages": 0}, r"pages=0 must be at least 1"),
        ({"workspace_bytes": -1}, r"workspace_bytes=-1 must be 0 or more"),
        ({"tp": 3}, r"tp=3 does not divide"),
    ],
)
def test_bad_arguments_name_the_knob(options, message):
    with pytest.raises(CostConfigError, match=message):
        kv_capacity(model("qwen3_8b"), hardware("h100"), **options)

"""The bundled models, devices and cost options: all there, all valid, and wrong ones refused by name."""

import itertools
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from harness.cost.errors import CostConfigError
from harness.cost.hardware import Hardware
from harness.cost.roofline import build_roofline
from harness.cost.shape import StepShape

CONF = Path(__file__).parents[2] / "conf"
MODELS = ["qwen3_0_6b", "qwen3_8b", "qwen3_14b", "qwen3_32b", "qwen3_30b_a3b", "llama3_8b", "llama3_70b"]
DEVICES = ["a100_40", "a100_80", "h100", "h200", "b200", "l40s", "rtx4090", "rtxpro6000", "cpu"]


def conf(group, name):
    return OmegaConf.to_container(OmegaConf.load(CONF / group / f"{name}.yaml"))


def test_the_promised_names_are_there():
    assert {path.stem for path in (CONF / "model").glob("*.yaml")} >= set(MODELS)
    assert {path.stem for path in (CONF / "hardware").glob("*.yaml")} >= set(DEVICES)


@pytest.mark.parametrize(("model", "device"), list(itertools.product(MODELS, DEVICES)))
def test_every_model_runs_on_every_device(model, device):
    roofline = build_roofline(conf("model", model), conf("hardware", device), 2, conf("cost", "roofline"))
    assert roofline.model.name == model
    assert roofline.hardware.name == device
    decode = StepShape(decode_sequences=8, decode_rows=8, decode_context=8000, sampled=8)
    assert 0 < roofline.step_s(decode) < 10


@pytest.mark.parametrize("device", DEVICES)
def test_devices_are_plausible(device):
    hardware = Hardware.from_config(conf("hardware", device))
    assert 150e12 < hardware.peak_flops["bf16"] < 3e15
    assert hardware.peak_flops["fp32"] < hardware.peak_flops["bf16"]
    if "fp8" in hardware.peak_flops:
        assert hardware.peak_flops["fp8"] == pytest.approx(2 * hardware.peak_flops["bf16"], rel=0.02)
    assert hardware.link_bandwidth < hardware.memory_bandwidth


@pytest.mark.parametrize(("device", "copy", "product"), [("h100", 3.03e12, 806e12), ("h200", 4.26e12, 801e12)])
def test_measured_devices_stay_below_their_measured_ceilings(device, copy, product):
    hardware = Hardware.from_config(conf("hardware", device))
    for fraction in (hardware.bandwidth_fraction, hardware.attention_bandwidth_fraction):
        assert 0.9 * copy < hardware.memory_bandwidth * fraction <= 1.01 * copy
    assert hardware.peak_flops["bf16"] * hardware.compute_fraction == pytest.approx(product, rel=0.01)


def test_fp8_weights_without_fp8_units_are_multiplied_in_bf16():
    assert Hardware.from_config(conf("hardware", "a100_80")).peak_for("fp8") == 312e12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"memory_bandwidth": None}, r"hardware\.memory_bandwidth is missing: give a number of bytes/s"),
        ({"memory_bandwidth": -1}, r"hardware\.memory_bandwidth=-1 must be a number of bytes/s above 0"),
        ({"memory_bandwidth": float("inf")}, r"hardware\.memory_bandwidth=inf must be"),
        ({"memory_bandwidth": "fast"}, r"hardware\.memory_bandwidth='fast' must be"),
        ({"compute_fraction": 1.2}, r"hardware\.compute_fraction=1\.2 must be a fraction"),
        ({"compute_fraction": 0}, r"hardware\.compute_fraction=0 must be a fraction"),
        ({"kernel_s": float("nan")}, r"hardware\.kernel_s=nan must be"),
        ({"processors": 0}, r"hardware\.processors=0 must be a whole number of at least 1"),
        ({"bandwith": 1}, r"hardware\.bandwith is unknown: choose among attention_bandwidth_fraction, "),
        (
            {"peak_flops": {"fp64": 1e12}},
            r"hardware\.peak_flops\.fp64 is unknown: choose among bf16, fp32, fp8",
        ),
        ({"peak_flops": 1e12}, r"hardware\.peak_flops=.* must be a mapping"),
        ({"peak_flops": {"fp32": 1e12}}, r"hardware\.peak_flops of h100 has no bf16"),
        ({"name": ""}, r"hardware\.name='' must be a name"),
    ],
)
def test_bad_hardware_names_the_knob(change, message):
    with pytest.raises(CostConfigError, match=message):
        build_roofline(conf("model", "qwen3_8b"), {**conf("hardware", "h100"), **change}, 1, conf("cost", "roofline"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight_dtype": "int4"}, r"cost\.weight_dtype='int4' must be one of bf16, fp8, fp32"),
        ({"kv_dtype": None}, r"cost\.kv_dtype is missing"),
        ({"kv_dtype": ["bf16"]}, r"cost\.kv_dtype=.* must be one of"),
        ({"step_overhead_s": -1e-6}, r"cost\.step_overhead_s=-1e-06 must be a number of seconds, 0 or more"),
        ({"launch_s": 1}, r"cost\.launch_s is unknown: choose among graph_launch_s, "),
    ],
)
def test_bad_cost_options_name_the_knob(change, message):
    with pytest.raises(CostConfigError, match=message):
        build_roofline(conf("model", "qwen3_8b"), conf("hardware", "h100"), 1, {**conf("cost", "roofline"), **change})


def test_bad_tp_names_the_knob():
    with pytest.raises(CostConfigError, match=r"tp=5 does not divide qwen3_8b"):
        build_roofline(conf("model", "qwen3_8b"), conf("hardware", "h100"), 5, conf("cost", "roofline"))

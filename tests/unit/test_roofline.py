"""The roofline against what was measured on H100 and H200, and its parts against each other."""

from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from harness.cost.errors import CostConfigError
from harness.cost.hardware import Hardware
from harness.cost.model import ModelShape
from harness.cost.roofline import Roofline, build_roofline
from harness.cost.shape import StepShape

CONF = Path(__file__).parents[2] / "conf"


def conf(group, name):
    return OmegaConf.to_container(OmegaConf.load(CONF / group / f"{name}.yaml"))


def roofline(model, hardware, tp=1, **cost):
    return build_roofline(conf("model", model), conf("hardware", hardware), tp, {**conf("cost", "roofline"), **cost})


def decode(batch, context):
    return StepShape(decode_sequences=batch, decode_rows=batch, decode_context=batch * context, sampled=batch)


def prefill(sequences, tokens):
    return StepShape(
        prefill_sequences=sequences,
        prefill_tokens=sequences * tokens,
        prefill_pairs=sequences * tokens * (tokens + 1) // 2,
        prefill_context=sequences * tokens,
        sampled=sequences,
    )


@pytest.mark.parametrize(
    ("hardware", "batch", "measured_ms", "tolerance"),
    [
        ("h100", 1, 5.68, 0.02),
        ("h100", 16, 5.81, 0.03),
        ("h100", 64, 5.88, 0.03),
        ("h100", 256, 7.02, 0.15),
        ("h200", 1, 4.04, 0.02),
        ("h200", 16, 4.08, 0.03),
        ("h200", 64, 4.21, 0.03),
        ("h200", 256, 6.58, 0.05),
    ],
)
def test_linear_layers_of_qwen3_8b_as_measured(hardware, batch, measured_ms, tolerance):
    cost = roofline("qwen3_8b", hardware)
    kernels = 4 * 36 + 1
    seconds = cost.linear_s(batch, batch) + kernels * cost.hardware.kernel_s
    assert seconds * 1e3 == pytest.approx(measured_ms, rel=tolerance)


@pytest.mark.parametrize(("batch", "context", "measured_us"), [(64, 600, 70), (256, 600, 226), (256, 1000, 361)])
def test_decode_attention_as_measured(batch, context, measured_us):
    layer_s = roofline("qwen3_8b", "h100").decode_attention_s(batch * context) / 36
    assert layer_s * 1e6 == pytest.approx(measured_us, rel=0.1)


@pytest.mark.parametrize(("sequences", "tokens", "measured_us"), [(4, 2048, 327), (1, 8192, 1025)])
def test_prefill_attention_as_measured(sequences, tokens, measured_us):
    shape = prefill(sequences, tokens)
    layer_s = (
        roofline("qwen3_8b", "h100").prefill_attention_s(
            shape.prefill_tokens, shape.prefill_pairs, shape.prefill_context
        )
        / 36
    )
    assert layer_s * 1e6 == pytest.approx(measured_us, rel=0.1)


@pytest.mark.parametrize(
    ("rows", "measured_us"), [(1, 3.8), (16, 4.1), (64, 5.5), (256, 11.3), (512, 18.5), (2048, 76.9)]
)
def test_sum_over_two_gpus_residual_and_norm_as_measured(rows, measured_us):
    """One kernel a block: what the all-reduces add to the norms, and the norms."""
    cost = roofline("qwen3_32b", "h200", 2)
    bandwidth = cost.hardware.memory_bandwidth * cost.hardware.bandwidth_fraction
    norm_s = cost.hardware.kernel_s + rows * 4 * 5120 * 2 / bandwidth
    one_s = (cost.all_reduce_s(rows) + 2 * 64 * norm_s) / (2 * 64 + 1)
    assert one_s * 1e6 == pytest.approx(measured_us, rel=0.11)


def test_steps_of_many_tokens_sum_by_nccl_apart_from_the_norms():
    cost = roofline("qwen3_32b", "h200", 2)
    assert cost.all_reduce_s(8192) / (2 * 64 + 1) * 1e6 == pytest.approx(307.7, rel=0.13)
    assert cost.all_reduce_s(2049) - cost.all_reduce_s(2048) > 100 * (cost.all_reduce_s(2048) - cost.all_reduce_s(2047))


@pytest.mark.parametrize(("batch", "measured_ms"), [(1, 9.40), (16, 10.86), (64, 13.05)])
def test_decode_steps_over_two_gpus_as_measured(batch, measured_ms):
    seconds = roofline("qwen3_32b", "h200", 2).step_s(decode(batch, 560))
    assert seconds * 1e3 == pytest.approx(measured_ms, rel=0.11)


@pytest.mark.parametrize(
    ("model", "hardware", "tp", "batch", "peer_ms"),
    [
        ("qwen3_0_6b", "h100", 1, 1, 1.53),
        ("qwen3_0_6b", "h100", 1, 16, 1.93),
        ("qwen3_0_6b", "h100", 1, 64, 3.26),
        ("qwen3_0_6b", "h100", 1, 256, 8.39),
        ("qwen3_8b", "h100", 1, 1, 6.78),
        ("qwen3_8b", "h100", 1, 16, 7.44),
        ("qwen3_8b", "h100", 1, 64, 9.66),
        ("qwen3_8b", "h100", 1, 256, 16.96),
        ("qwen3_32b", "h200", 1, 1, 19.0),
        ("qwen3_32b", "h200", 1, 64, 23.8),
        ("qwen3_32b", "h200", 2, 1, 12.0),
        ("qwen3_32b", "h200", 2, 64, 14.7),
        ("qwen3_32b", "h200", 4, 1, 7.9),
        ("qwen3_32b", "h200", 4, 64, 10.2),
    ],
)
def test_decode_steps_are_below_a_real_server_but_near(model, hardware, tp, batch, peer_ms):
    """mini-sglang's decode steps (512 prompt tokens, some 40 to 64 more generated, NCCL) bound ours from above."""
    ours_ms = roofline(model, hardware, tp).step_s(decode(batch, 560)) * 1e3
    assert 0.76 * peer_ms < ours_ms < peer_ms


@pytest.mark.parametrize(("model", "peer_tokens_per_s"), [("qwen3_0_6b", 325_900), ("qwen3_8b", 42_450)])
def test_prefill_is_above_a_real_server_but_near(model, peer_tokens_per_s):
    ours = 16_384 / roofline(model, "h100").step_s(prefill(8, 2048))
    assert peer_tokens_per_s < ours < 1.35 * peer_tokens_per_s


def test_every_attention_call_has_its_fixed_part():
    cost = roofline("qwen3_8b", "h100")
    fixed_s = 36 * cost.hardware.attention_s
    assert cost.decode_attention_s(1) == pytest.approx(fixed_s, rel=1e-3)
    assert cost.prefill_attention_s(1, 1, 1) == pytest.approx(fixed_s, rel=1e-3)


def test_padding_costs_rows_but_no_context():
    cost = roofline("qwen3_8b", "h100")
    exact = cost.step_s(StepShape(decode_sequences=200, decode_rows=200, decode_context=100_000, sampled=200))
    padded = cost.step_s(StepShape(decode_sequences=200, decode_rows=256, decode_context=100_000, sampled=200))
    assert exact < padded < exact + cost.linear_s(256, 200) - cost.linear_s(200, 200) + 1e-3


def test_a_chunk_that_samples_nothing_skips_the_lm_head():
    cost = roofline("qwen3_8b", "h100")
    last = prefill(1, 2048)
    middle = StepShape(**{**{name: getattr(last, name) for name in StepShape.__slots__}, "sampled": 0})
    lm_head_s = 151_936 * 4096 * 2 / (cost.hardware.memory_bandwidth * cost.hardware.bandwidth_fraction)
    assert cost.step_s(last) - cost.step_s(middle) == pytest.approx(lm_head_s, rel=0.01)


def test_an_moe_layer_reads_the_experts_that_are_touched():
    model = ModelShape.from_config(conf("model", "qwen3_30b_a3b"))
    hardware = Hardware.from_config(conf("hardware", "h100"))
    cost = Roofline(model, hardware)
    bandwidth = hardware.memory_bandwidth * hardware.bandwidth_fraction
    experts_s = model.weight_bytes()["experts"] / bandwidth
    dense_s = (model.weight_bytes()["attention"] + model.weight_bytes()["router"]) / bandwidth
    one = cost.linear_s(1, 0) - dense_s
    assert one == pytest.approx(experts_s * 8 / 128, rel=0.02)
    touched = 128 * (1 - (1 - 8 / 128) ** 16)  # of 16 tokens that route independently
    assert cost.linear_s(16, 0) - dense_s == pytest.approx(experts_s * touched / 128, rel=0.02)


def test_dtypes_change_what_they_should():
    bf16 = roofline("qwen3_8b", "h100")
    fp8 = roofline("qwen3_8b", "h100", weight_dtype="fp8")
    fp32 = roofline("qwen3_8b", "h100", weight_dtype="fp32")
    assert fp8.linear_s(1, 0) == pytest.approx(bf16.linear_s(1, 0) / 2, rel=0.01)
    assert fp8.linear_s(16_384, 0) == pytest.approx(bf16.linear_s(16_384, 0) / 2, rel=0.05)
    assert fp8.linear_s(1, 1) - fp8.linear_s(1, 0) == pytest.approx(bf16.linear_s(1, 1) - bf16.linear_s(1, 0))
    assert fp32.linear_s(1, 0) == pytest.approx(2 * bf16.linear_s(1, 0), rel=0.01)
    kv = roofline("qwen3_8b", "h100", kv_dtype="fp8")
    assert kv.decode_attention_s(10**6) < 0.55 * bf16.decode_attention_s(10**6)


def test_launches_cost_cpu_time_per_kernel_without_a_graph():
    cost = roofline("qwen3_8b", "h100")
    assert cost.launch_s(decode(8, 100), graph=True) == (0.9e-3, 0.0)
    eager, lead = cost.launch_s(decode(8, 100), graph=False)
    assert lead == eager - 0.9e-3  # the inputs come first
    assert eager == pytest.approx((36 * (7 + 3 + 1) + 4) * 45e-6)
    assert cost.launch_s(prefill(1, 100), graph=False) == (eager, lead)
    mixed = StepShape(1, 8, 36, 8, 1, 1, 9, 2)
    assert cost.launch_s(mixed, graph=False)[0] == pytest.approx(eager + 36 * 45e-6)
    split, _ = roofline("qwen3_8b", "h100", 2).launch_s(decode(8, 100), graph=False)
    assert split == pytest.approx(eager + 73 * 45e-6)


def test_decode_s_takes_integer_arrays_and_returns_float64():
    cost = roofline("qwen3_8b", "h100")
    seconds = cost.decode_s(4, 4, np.array([400, 404, 408]), np.array([100, 101, 102]))
    assert seconds.dtype == np.float64
    assert seconds.shape == (3,)
    assert (np.diff(seconds) > 0).all()


def test_an_unknown_dtype_is_refused():
    model = ModelShape.from_config(conf("model", "qwen3_8b"))
    hardware = Hardware.from_config(conf("hardware", "h100"))
    with pytest.raises(CostConfigError, match=r"cost\.weight_dtype='int8' is unknown: choose among bf16, fp8, fp32"):
        Roofline(model, hardware, weight_dtype="int8")

"""Physics of the roofline: nothing beats the hardware's peaks, more work never takes less time.

FLOPs and bytes are counted here from the configuration's own fields, apart from the code under test.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from harness.cost.hardware import Hardware
from harness.cost.model import ModelShape
from harness.cost.roofline import Roofline
from harness.cost.shape import StepShape
from tests.cost.steps import LONGEST, assert_more_work_takes_no_less, step
from tests.cost.steps import batches as any_batches

CONF = Path(__file__).parents[2] / "conf"
ROUNDING = 1e-12


def load(group):
    files = sorted((CONF / group).glob("*.yaml"))
    return {file.stem: OmegaConf.to_container(OmegaConf.load(file)) for file in files}


MODELS = load("model")
del MODELS["tiny"]  # its heads and vocabulary do not divide over 8 GPUs
SHAPES = {name: ModelShape.from_config(config) for name, config in MODELS.items()}
DEVICES = {name: Hardware.from_config(config) for name, config in load("hardware").items()}
DTYPE_BYTES = {"bf16": 2, "fp8": 1, "fp32": 4}
# No communication: its cost comes on top of what tensor parallelism saves.
FREE_LINK = {name: replace(device, link_bandwidth=1e30, link_latency_s=0.0) for name, device in DEVICES.items()}

models = st.sampled_from(sorted(MODELS))
devices = st.sampled_from(sorted(DEVICES))
dtypes = st.sampled_from(sorted(DTYPE_BYTES))
tps = st.sampled_from([1, 2, 4, 8])
batches = any_batches.filter(any)


def mlp_weights(config, experts):
    """Weights of all MLPs: SwiGLU's three matrices, and of an MoE layer the router and some experts."""
    h, layers = config["hidden_size"], config["num_hidden_layers"]
    if "num_experts" not in config:
        return layers * 3 * h * config["intermediate_size"], 0
    expert = 3 * h * config["moe_intermediate_size"]
    return layers * experts * expert, layers * h * config["num_experts"]


def attention_weights(config):
    """Weights of the Q and O projections, and of K and V."""
    h, layers, width = config["hidden_size"], config["num_hidden_layers"], config["head_dim"]
    query = config["num_attention_heads"] * width
    kv = config["num_key_value_heads"] * width
    return layers * h * 2 * query, layers * h * 2 * kv


def least_flops(config, tp, shape):
    """FLOPs on one GPU: (of the layers' products, of the LM head and attention)."""
    rows = shape.prefill_tokens + shape.decode_sequences
    mlp, router = mlp_weights(config, config.get("num_experts_per_tok", 0))
    layers_flops = 2 * rows * (sum(attention_weights(config)) + mlp) / tp
    lm_head = 2 * shape.sampled * config["hidden_size"] * config["vocab_size"] / tp
    query = config["num_attention_heads"] * config["head_dim"]
    pairs = shape.prefill_pairs + shape.decode_context
    attention = 4 * query * pairs * config["num_hidden_layers"] / tp
    return layers_flops, lm_head + attention + 2 * rows * router


def least_bytes(config, tp, weight_dtype, kv_dtype, shape):
    """Bytes that one GPU reads: every weight once, of experts the fewest that a token touches, and KV."""
    mlp, router = mlp_weights(config, config.get("num_experts_per_tok", 0))
    wide = max(2, DTYPE_BYTES[weight_dtype])
    weights = DTYPE_BYTES[weight_dtype] * (sum(attention_weights(config)) + mlp) / tp
    weights += wide * (router + config["hidden_size"] * config["vocab_size"] / tp)
    kv_heads = max(config["num_key_value_heads"] / tp, 1)
    kv_token = 2 * config["num_hidden_layers"] * kv_heads * config["head_dim"] * DTYPE_BYTES[kv_dtype]
    return weights + kv_token * (shape.decode_context + shape.prefill_context)


@given(models, devices, tps, dtypes, dtypes, batches, st.integers(0, 64))
def test_no_step_beats_peak_flops_or_peak_bandwidth(name, device, tp, weight_dtype, kv_dtype, batch, padding):
    config, hardware = MODELS[name], FREE_LINK[device]
    shape = step(batch, padding)
    cost = Roofline(SHAPES[name], hardware, tp, weight_dtype, kv_dtype, step_overhead_s=0.0)
    seconds = cost.step_s(shape)
    peaks = hardware.peak_flops
    layers_flops, wide_flops = least_flops(config, tp, shape)
    wide_peak = peaks["fp32" if weight_dtype == "fp32" else "bf16"]
    compute_s = layers_flops / peaks.get(weight_dtype, peaks["bf16"]) + wide_flops / wide_peak
    memory_s = least_bytes(config, tp, weight_dtype, kv_dtype, shape) / hardware.memory_bandwidth
    assert seconds >= max(compute_s, memory_s) * (1 - ROUNDING)


@given(models, st.sampled_from([1, 2, 4]), batches)
def test_with_endless_bandwidth_a_step_takes_exactly_its_flops(name, tp, batch):
    """SwiGLU's three matrices, the LM head, and nothing twice (no KV head is replicated up to tp=4)."""
    ideal = replace(
        FREE_LINK["h100"],
        memory_bandwidth=1e40,
        compute_fraction=1.0,
        attention_compute_fraction=1.0,
        kernel_s=0.0,
        attention_s=0.0,
    )
    shape = step(batch)
    flops = sum(least_flops(MODELS[name], tp, shape))
    seconds = Roofline(SHAPES[name], ideal, tp, step_overhead_s=0.0).step_s(shape)
    assert seconds * ideal.peak_flops["bf16"] == pytest.approx(flops, rel=1e-9)


@given(models.filter(lambda name: "num_experts" not in MODELS[name]), tps, st.integers(1, LONGEST), st.booleans())
def test_with_endless_compute_one_token_takes_its_bytes(name, tp, context, prefill):
    """Weights once and KV once, whether the token is generated or the last of a prompt."""
    ideal = replace(
        FREE_LINK["h100"],
        peak_flops={"bf16": 1e40},
        bandwidth_fraction=1.0,
        attention_bandwidth_fraction=1.0,
        kernel_s=0.0,
        attention_s=0.0,
    )
    shape = step(([(1, context - 1)], []) if prefill else ([], [context]))
    moved = Roofline(SHAPES[name], ideal, tp, step_overhead_s=0.0).step_s(shape) * ideal.memory_bandwidth
    assert moved == pytest.approx(least_bytes(MODELS[name], tp, "bf16", "bf16", shape), rel=0.02)


@given(models, devices, tps, dtypes, batches, st.data())
def test_more_work_never_takes_less_time(name, device, tp, dtype, batch, data):
    cost = Roofline(SHAPES[name], DEVICES[device], tp, dtype, dtype)
    assert_more_work_takes_no_less(cost, batch, data, ROUNDING)


@given(models, devices, st.sampled_from([1, 2, 4]), dtypes, batches)
def test_twice_the_gpus_compute_at_most_twice_as_fast(name, device, tp, dtype, batch):
    shape = step(batch)
    seconds = Roofline(SHAPES[name], FREE_LINK[device], tp, dtype, dtype).step_s(shape)
    split = Roofline(SHAPES[name], FREE_LINK[device], 2 * tp, dtype, dtype).step_s(shape)
    assert seconds / 2 * (1 - ROUNDING) <= split <= seconds * (1 + ROUNDING)
    assert Roofline(SHAPES[name], DEVICES[device], 2 * tp, dtype, dtype).step_s(shape) > split


@given(
    models,
    devices,
    tps,
    dtypes,
    st.integers(1, 2048),
    st.integers(0, 512),
    st.integers(1, 10**12),
    st.integers(1, 200),
)
def test_leaping_over_decode_steps_is_bit_for_bit_the_same(name, device, tp, dtype, sequences, padding, context, steps):
    cost = Roofline(SHAPES[name], DEVICES[device], tp, dtype, dtype)
    contexts = context + sequences * np.arange(steps)
    leapt = cost.decode_s(sequences, sequences + padding, contexts, contexts)
    stepped = [
        cost.step_s(
            StepShape(
                decode_sequences=sequences,
                decode_rows=sequences + padding,
                decode_context=int(total),
                sampled=sequences,
            )
        )
        for total in contexts
    ]
    assert leapt.tolist() == stepped


@given(models, devices)
def test_a_long_prompt_grows_with_its_square(name, device):
    """Attention over 128k tokens is counted in pairs: twice the prompt, more than twice the time."""
    cost = Roofline(SHAPES[name], DEVICES[device])
    half, whole = cost.step_s(step(([(LONGEST // 2, 0)], []))), cost.step_s(step(([(LONGEST, 0)], [])))
    assert 2 * half < whole < 4 * half

"""Profiles of an engine that does not exist: the same places that a calibration measures, with any seconds."""

from dataclasses import replace
from functools import cache
from math import ceil
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf

from harness.cost.hardware import Hardware
from harness.cost.measured import MeasuredProfile, StepPoint
from harness.cost.model import ModelShape
from harness.cost.roofline import Roofline
from harness.cost.shape import StepShape
from runtime.scheduler.graph_sizes import chunked_size, ladder

CONF = Path(__file__).parents[2] / "conf"
GRAPHS = tuple(ladder(256))


def conf(group, name):
    return OmegaConf.to_container(OmegaConf.load(CONF / group / f"{name}.yaml"))


def roofline(model="qwen3_8b", hardware="h100", tp=1):
    return Roofline(ModelShape.from_config(conf("model", model)), Hardware.from_config(conf("hardware", hardware)), tp)


def decode(sequences, context, longest=None):
    """A decode step of sequences of a mean context, padded to the next graph."""
    rows = next((size for size in GRAPHS if size >= sequences), sequences)
    return StepShape(
        decode_sequences=sequences,
        decode_rows=rows,
        decode_context=sequences * context,
        decode_max_context=longest or context,
        sampled=sequences,
    )


def mixed(sequences, tokens, before, decodes=0, context=0):
    """A step of equal chunks after equal contexts, with decodes of equal contexts beside them."""
    return StepShape(
        prefill_sequences=sequences,
        prefill_tokens=sequences * tokens,
        prefill_pairs=sequences * (tokens * before + tokens * (tokens + 1) // 2),
        prefill_context=sequences * (tokens + before),
        decode_sequences=decodes,
        decode_rows=decodes,
        decode_context=decodes * context,
        decode_max_context=context,
        sampled=sequences + decodes,
    )


@cache
def places():
    """Where a calibration measures."""
    contexts = (16, 64, 256, 1024, 4096, 16384)
    batches = (1, 2, 4, 8, 16, 32, 64, 96, 128, 192, 256)
    shapes = [decode(n, c) for n in batches for c in contexts if n * c <= 400_000]
    shapes += [decode(n, c, 3 * c) for n in (3, 13, 45, 77, 150, 230) for c in (128, 1024)]
    shapes += [mixed(1, q, 0) for q in (16, 64, 128, 256, 512, 1024, 2048, 4096, 8192)]
    shapes += [mixed(1, q, c) for q in (64, 256, 512, 1024, 2048, 4096) for c in (512, 2048, 8192, 24576)]
    shapes += [mixed(4, q, 0) for q in (64, 256, 1024)] + [mixed(16, 64, 0), mixed(16, 256, 512)]
    chunks = ((1, 128, 0), (1, 512, 0), (1, 2048, 0), (1, 512, 4096))
    shapes += [mixed(*chunk, n, c) for chunk in chunks for n, c in ((8, 512), (32, 2048), (128, 1024))]
    return tuple(shapes)


def engine_s(shape, base):
    """Seconds of an engine unlike the roofline: tiles of rows, attention that waits for the slowest chunk."""
    nothing = base.step_s(StepShape())
    rows = shape.prefill_tokens + shape.decode_rows
    tiles = ceil(rows / 64) * 64 if rows > 64 else rows
    seconds = 60e-6 + 1.08 * nothing + 1.3 * (base.step_s(StepShape(sampled=shape.sampled)) - nothing)
    seconds += 0.5 * (base.step_s(StepShape(decode_rows=rows)) - nothing)
    seconds += 0.6 * (base.step_s(StepShape(decode_rows=tiles)) - nothing)
    processors = base.hardware.processors
    if shape.decode_sequences:
        read_s = base.decode_attention_s(shape.decode_context) - base.decode_attention_s(0)
        seconds += 324e-6 + 1.15 * read_s
    if shape.prefill_sequences:
        longest = shape.prefill_context / shape.prefill_sequences
        pairs = max(shape.prefill_pairs, processors * 128 * base.tp / base.model.heads * longest)
        attention_s = base.prefill_attention_s(shape.prefill_tokens, pairs, shape.prefill_tokens)
        seconds += 8e-4 + attention_s * (1.1 + 0.3 / (1 + shape.prefill_tokens / 512)) + 4e-5 * shape.prefill_sequences
    return seconds


def chunk_graph(shape, longest):
    """Whether an engine replays a CUDA graph for a step with chunks."""
    return chunked_size(shape.prefill_sequences, shape.prefill_tokens, longest, shape.decode_rows) > 0


def profile(base=None, seconds=engine_s, noise=0.0, seed=0, shapes=None, chunk_graphs=False):
    """A profile of an engine, each point the median of 7 noisy repeats."""
    base = base or roofline()
    rng = np.random.default_rng(seed)
    steps = []
    for shape in shapes or places():
        repeats = seconds(shape, base) * np.exp(rng.normal(0.0, noise, 7))
        spread = float(np.subtract(*np.percentile(repeats, [75, 25])))
        chunks = shape.prefill_sequences
        graph = not chunks or (chunk_graphs and chunk_graph(shape, shape.prefill_context / chunks))
        steps.append(StepPoint(replace(shape), graph, float(np.median(repeats)), spread, 7))
    return MeasuredProfile(
        model=base.model,
        hardware=base.hardware,
        device="synthetic",
        tp=base.tp,
        weight_dtype=base.weight_dtype,
        kv_dtype=base.kv_dtype,
        page_size=16,
        pages=20_000,
        max_running=256,
        max_context=40_960,
        graph_sizes=GRAPHS,
        overlap=True,
        attention="synthetic",
        versions={},
        date="2026-01-01",
        command="tests",
        steps=steps,
    )

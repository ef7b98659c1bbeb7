"""Profiles of other simulators, generated here in their formats: what their kernels take is what our steps take."""

import csv
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from harness.cost.build import build_cost
from harness.cost.importers import import_profile
from harness.cost.importers.layerwise import ImportProfileError, Table
from harness.cost.profile import ProfileCost
from harness.cost.shape import StepShape
from tests.cost.synthetic import conf, roofline

TOKENS = (1, 8, 64, 512, 4096)
CONTEXTS = (31, 255, 2047)
BATCHES = (1, 8, 64)
CHUNKS = (64, 512, 2048)
MODEL = "llama3_8b"
LAYERS, HIDDEN, HEADS, KV_HEADS, HEAD_DIM, WIDTH, VOCABULARY = 32, 4096, 32, 8, 128, 14336, 128_256
OVERHEAD_S = 30e-6
VIDUR_LAYER = (
    "input_layernorm",
    "attn_pre_proj",
    "attn_rope",
    "attn_post_proj",
    "post_attention_layernorm",
    "mlp_up_proj",
    "mlp_act",
    "mlp_down_proj",
    "add",
)


def imported(path, model=MODEL, tp=1, hardware="h100"):
    base = roofline(model, hardware, tp)
    return import_profile(path, base.model, base.hardware, tp)


def write_csv(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def decode_us(sequences, context):
    return 8 + 0.01 * sequences + 0.0006 * sequences * context


def prefill_us(tokens, before):
    return 10 + 4e-5 * (tokens * before + tokens * tokens / 2)


def vidur(directory, tps=(1, 2)):
    mlp, attention = [], []
    for tp in tps:
        about = {"n_head": HEADS, "n_kv_head": KV_HEADS, "n_embd": HIDDEN, "num_tensor_parallel_workers": tp}
        for tokens in TOKENS:
            times = {f"time_stats.{kernel}.median": (0.01 + 1e-4 * tokens) / tp for kernel in VIDUR_LAYER}
            mlp.append({**times, "time_stats.emb.median": 0.002 * tokens, "num_tokens": tokens, **about})
        about = {"num_tensor_parallel_workers": tp, "time_stats.attn_output_reshape.median": 0.001}
        for batch in BATCHES:
            for cached in CONTEXTS:
                times = {"time_stats.attn_decode.median": decode_us(batch, cached) / tp / 1e3}
                times["time_stats.attn_prefill.median"] = ""
                sizes = {"batch_size": batch, "prefill_chunk_size": 0, "kv_cache_size": cached, "is_prefill": False}
                attention.append({**times, **sizes, **about})
        for chunk in CHUNKS:
            times = {"time_stats.attn_decode.median": ""}
            times["time_stats.attn_prefill.median"] = prefill_us(chunk, 0) / tp / 1e3
            sizes = {"batch_size": 1, "prefill_chunk_size": chunk, "kv_cache_size": 0, "is_prefill": True}
            attention.append({**times, **sizes, **about})
    write_csv(directory / "mlp.csv", mlp)
    write_csv(directory / "attention.csv", attention)
    reduce = [
        {"time_stats.all_reduce.median": 0.01 + 1e-8 * size, "num_workers": 2, "size": size}
        for size in (1024, 8192, 1 << 20)
    ]
    write_csv(directory / "all_reduce.csv", reduce)
    return directory


def llmservingsim(directory, tp=1, skew=True):
    here = directory / f"tp{tp}"
    layers = ("embedding", "layernorm", "qkv_proj", "rotary_emb", "o_proj", "gate_up_proj", "act_fn", "down_proj")
    dense = [{"layer": name, "tokens": n, "time_us": 20 + 0.1 * n} for name in layers for n in TOKENS]
    dense += [{"layer": "final_layernorm", "tokens": n, "time_us": 5} for n in TOKENS]
    write_csv(here / "dense.csv", dense)
    head = [{"layer": name, "sequences": n, "time_us": 300 + n} for name in ("lm_head", "sampler") for n in (1, 8, 64)]
    write_csv(here / "per_sequence.csv", head)
    grid = [
        (chunk, before, sequences, context)
        for chunk in (0, *CHUNKS)
        for before in ((0,) if not chunk else (0, 1024))
        for sequences in (0, *BATCHES)
        for context in ((0,) if not sequences else (256, 1024))
        if chunk or sequences
    ]
    write_csv(
        here / "attention.csv",
        [
            {
                "prefill_chunk": chunk,
                "kv_prefill": before,
                "n_decode": sequences,
                "kv_decode": context,
                "time_us": decode_us(sequences, context) + prefill_us(chunk, before),
            }
            for chunk, before, sequences, context in grid
        ],
    )
    meta = {
        "vllm_version": "0.19.0",
        "gpu": "a card",
        "model": "meta-llama/Llama-3.1-8B",
        "tp_degrees": [1, 2],
        "engine_effective": {"hf_overrides": {"num_attention_heads": HEADS // tp}},
        "skew_fit": {"enabled": skew, "per_tp": {tp: {"alpha_default": 0.25}} if skew else {}},
    }
    (directory / "meta.yaml").write_text(yaml.safe_dump(meta))
    return directory


def write_parquet(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def aisimulate(directory, tp=1, version="0.24.0", faster=1.0):
    about = {"framework": "vLLM", "version": version, "device": "NVIDIA H100 80GB HBM3"}
    query, kv, width = HEADS * HEAD_DIM // tp, KV_HEADS * HEAD_DIM // tp, WIDTH // tp
    sizes = [(query + 2 * kv, HIDDEN), (HIDDEN, query), (2 * width, HIDDEN), (HIDDEN, width), (65536, HIDDEN)]
    gemm = [
        {
            **about,
            "gemm_dtype": "bfloat16",
            "m": m,
            "n": n,
            "k": k,
            "latency": faster * (0.02 + 1e-9 * n * k + 1e-4 * m),
        }
        for n, k in sizes
        for m in TOKENS
    ]
    write_parquet(directory / "gemm/vllm" / version / "gemm_perf.parquet", gemm)
    heads = {"num_heads": HEADS // tp, "num_key_value_heads": KV_HEADS // tp, "head_dim": HEAD_DIM}
    heads |= {"attn_dtype": "bfloat16", "kv_cache_dtype": "bfloat16"}
    context = [
        {**about, **heads, "batch_size": 1, "isl": chunk, "step": 0, "latency": prefill_us(chunk, 0) / 1e3}
        for chunk in CHUNKS
    ]
    write_parquet(directory / "attention/vllm" / version / "context_attention_perf.parquet", context)
    generation = [
        {**about, **heads, "batch_size": batch, "isl": 1, "step": cached, "latency": decode_us(batch, cached) / 1e3}
        for batch in BATCHES
        for cached in CONTEXTS
    ]
    write_parquet(directory / "attention/vllm" / version / "generation_attention_perf.parquet", generation)
    reduce = [{**about, "num_gpus": 2, "message_size": size, "latency": 0.01 + 1e-8 * size} for size in (512, 1 << 20)]
    write_parquet(directory / "comm/vllm" / version / "custom_allreduce_perf.parquet", reduce)
    return directory


def found(profile, **fields):
    """The step of a profile with such a shape."""
    (step,) = [
        step for step in profile.steps if all(getattr(step.shape, name) == value for name, value in fields.items())
    ]
    return step


def test_vidur_steps_are_the_sum_of_their_kernels(tmp_path):
    for tp in (1, 2):
        profile = imported(vidur(tmp_path), tp=tp)
        base = roofline(MODEL, "h100", tp)
        head_s = base.step_s(StepShape(sampled=64)) - base.step_s(StepShape())
        layer_s = len(VIDUR_LAYER) * (0.01 + 1e-4 * 64) / tp * 1e-3
        attention_s = decode_us(64, 2047) / tp * 1e-6 + 1e-6
        reduce_s = (2 * LAYERS + 1) * (0.01e-3 + 1e-11 * 64 * HIDDEN * 2) if tp == 2 else 0.0
        expected = OVERHEAD_S + 64 * 2e-6 + LAYERS * (layer_s + attention_s) + head_s + reduce_s
        step = found(profile, decode_sequences=64, decode_context=64 * 2048)
        assert step.device_s == pytest.approx(expected, rel=1e-9)
        assert step.shape.decode_max_context == 2048
        assert bool(profile.collectives) == (tp == 2)


def test_llmservingsim_steps_are_the_sum_of_their_kernels(tmp_path):
    profile = imported(llmservingsim(tmp_path))
    assert (profile.device, profile.versions["vllm"]) == ("a card", "0.19.0")
    rows = 512 + 8
    layer_us, head_us = 8 * (20 + 0.1 * rows), 2 * (300 + 9)
    attention_us = decode_us(8, 1024) + prefill_us(512, 1024)
    expected = OVERHEAD_S + (20 + 0.1 * rows + 5 + LAYERS * (layer_us + attention_us) + head_us) * 1e-6
    step = found(profile, decode_sequences=8, prefill_tokens=512, decode_context=8192, prefill_context=1536)
    assert step.device_s == pytest.approx(expected, rel=1e-9)
    assert imported(tmp_path / "tp1") == replace(profile, command=f"imported from {tmp_path / 'tp1'}")


def test_llmservingsim_unequal_contexts_lie_between_mean_and_longest(tmp_path):
    profile = imported(llmservingsim(tmp_path / "skew"))
    same = found(profile, decode_context=8 * 256, prefill_sequences=0, decode_max_context=256)
    unequal = found(profile, decode_context=8 * 256, prefill_sequences=0, decode_max_context=1024)
    longest = found(profile, decode_context=8 * 1024, prefill_sequences=0, decode_max_context=1024)
    assert unequal.device_s == pytest.approx(0.75 * same.device_s + 0.25 * longest.device_s)
    even = imported(llmservingsim(tmp_path / "even", skew=False))
    assert {step.shape.decode_max_context for step in even.steps if not step.shape.prefill_sequences} == {256, 1024}


def test_llmservingsim_skew_table_stands_in_for_its_pooled_value(tmp_path):
    llmservingsim(tmp_path, skew=False)
    rows = [{"layer": "attention", "pc_label": "pc0", "alpha": alpha} for alpha in (-0.1, 0.5, 0.9)]
    write_csv(tmp_path / "tp1" / "skew_fit.csv", rows)
    profile = imported(tmp_path)
    same = found(profile, decode_context=8 * 256, prefill_sequences=0, decode_max_context=256)
    unequal = found(profile, decode_context=8 * 256, prefill_sequences=0, decode_max_context=1024)
    extra_s = LAYERS * 0.5 * (decode_us(8, 1024) - decode_us(8, 256)) * 1e-6
    assert unequal.device_s - same.device_s == pytest.approx(extra_s)


def test_llmservingsim_experts_are_those_that_even_routing_touches(tmp_path):
    llmservingsim(tmp_path)
    (tmp_path / "meta.yaml").unlink()
    experts = [{"tokens": n, "activated_experts": a, "time_us": 10 * a} for n in (1, 64, 4096) for a in (8, 64, 128)]
    write_csv(tmp_path / "tp1" / "moe.csv", experts)
    with_experts = imported(tmp_path, model="qwen3_30b_a3b")
    one = found(with_experts, decode_sequences=1, prefill_sequences=0, decode_context=256, decode_max_context=256)
    dense_us = 5 * (20 + 0.1)  # two norms, QKV, rope, output; the experts' layer has no dense MLP
    expected_us = 48 * (dense_us + 80 + decode_us(1, 256) + prefill_us(0, 0)) + 2 * 301 + 20.1 + 5
    assert one.device_s == pytest.approx(OVERHEAD_S + expected_us * 1e-6, rel=1e-9)


def test_aisimulate_products_are_the_tables_and_the_rest_is_the_rooflines(tmp_path):
    for tp in (1, 2):
        directory = aisimulate(tmp_path / str(tp), tp)
        slow, fast = imported(directory, tp=tp), imported(aisimulate(directory, tp, "0.25.0", faster=0.5), tp=tp)
        assert (slow.versions["vLLM"], fast.versions["vLLM"]) == ("0.24.0", "0.25.0")
        shape = {"decode_sequences": 8, "decode_context": 8 * 256}
        sizes = [(2 * HIDDEN * HIDDEN + HIDDEN * 2048 - HIDDEN * HIDDEN) // tp, HIDDEN * HIDDEN // tp]
        sizes += [2 * HIDDEN * WIDTH // tp, HIDDEN * WIDTH // tp]
        layer_ms = sum(0.02 + 1e-9 * size + 1e-4 * 8 for size in sizes)
        vocabulary = -(-VOCABULARY // tp)
        head_ms = (0.02 + 1e-9 * 65536 * HIDDEN + 1e-4 * 8) * vocabulary / 65536
        halved = found(slow, **shape).device_s - found(fast, **shape).device_s
        assert halved == pytest.approx(0.5e-3 * (LAYERS * layer_ms + head_ms), rel=1e-6)
        assert bool(slow.collectives) == (tp == 2)


@pytest.mark.parametrize("make", [vidur, llmservingsim, aisimulate])
def test_an_imported_profile_simulates(tmp_path, make):
    make(tmp_path)
    cost = {"name": "imported", "path": str(tmp_path), "weight_dtype": "bf16", "kv_dtype": "bf16"}
    built = build_cost(conf("model", MODEL), conf("hardware", "h100"), 1, cost)
    assert isinstance(built.cost, ProfileCost)
    step = built.cost.profile.steps[0]
    assert built.cost.step_s(step.shape) == pytest.approx(step.device_s, rel=0.2)
    assert built.cost.launch_s(step.shape, graph=True)[0] > 0


def test_what_is_wrong_is_named(tmp_path):
    with pytest.raises(ImportProfileError, match="no profile of another simulator there"):
        imported(tmp_path)
    directory = vidur(tmp_path / "vidur", tps=(1,))
    with pytest.raises(ImportProfileError, match=r"nothing with num_tensor_parallel_workers=2; it has \[1\]"):
        imported(directory, tp=2)
    with pytest.raises(ImportProfileError, match=r"mlp\.csv: it is of a model with n_embd.* = \(4096, 32, 8\)"):
        imported(directory, model="qwen3_0_6b")
    with pytest.raises(ImportProfileError, match="knows no experts"):
        imported(directory, model="qwen3_30b_a3b")
    text = (directory / "attention.csv").read_text()
    (directory / "attention.csv").write_text(text.replace("prefill_chunk_size", "chunk"))
    with pytest.raises(ImportProfileError, match=r"attention\.csv: no column prefill_chunk_size; it has time_stats"):
        imported(directory)


def test_a_wrong_number_is_named_by_its_line(tmp_path):
    directory = llmservingsim(tmp_path)
    file = directory / "tp1" / "dense.csv"
    file.write_text(file.read_text().replace("qkv_proj,1,20.1", "qkv_proj,1,soon"))
    with pytest.raises(ImportProfileError, match=r"dense\.csv: line 12: time_us='soon' is no number of 0 or more"):
        imported(directory)
    file.write_text("layer,tokens,time_us\nlinear_attention,1,5\n")
    with pytest.raises(ImportProfileError, match="layer=linear_attention is not of a decoder that is modelled"):
        imported(directory)
    with pytest.raises(ImportProfileError, match=r"tp4: nothing was profiled with tp=4; there is tp1"):
        imported(directory, tp=4)


def test_tables_without_the_heads_say_what_they_have(tmp_path):
    directory = aisimulate(tmp_path)
    with pytest.raises(ImportProfileError, match=r"nothing with heads, KV heads, head_dim = \(16, 4, 128\)"):
        imported(directory, tp=2)
    write_parquet(next(directory.rglob("gemm_perf.parquet")), [{"m": 1, "n": 2, "k": 3, "latency": 0.1}])
    with pytest.raises(ImportProfileError, match=r"gemm_perf\.parquet: no column gemm_dtype; it has m, n, k"):
        imported(directory)


def test_a_table_is_straight_between_its_points_and_never_falls_beyond_them():
    table = Table([(10, 2.0), (20, 4.0), (20, 6.0), (40, 3.0)])
    assert [table.at(size) for size in (10, 15, 20, 30, 40, 80)] == [2.0, 3.5, 5.0, 4.0, 3.0, 3.0]
    assert Table([(1, 1.0)]).at(100) == 1.0

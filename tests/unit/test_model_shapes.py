"""A model's shape: parameter counts, weight and KV bytes, tensor parallelism, what config.json may say."""

import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from harness.cost.errors import CostConfigError
from harness.cost.model import ModelShape, load_model_config

MODELS = Path(__file__).parents[2] / "conf" / "model"


def conf(name):
    return OmegaConf.to_container(OmegaConf.load(MODELS / f"{name}.yaml"))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("qwen3_0_6b", 596_049_920),
        ("qwen3_8b", 8_190_735_360),
        ("qwen3_14b", 14_768_307_200),
        ("qwen3_32b", 32_762_123_264),
        ("qwen3_30b_a3b", 30_532_122_624),
        ("llama3_8b", 8_030_261_248),
        ("llama3_70b", 70_553_706_496),
    ],
)
def test_parameter_counts_are_the_published_ones(name, parameters):
    shape = ModelShape.from_config(conf(name))
    assert shape.name == name
    assert shape.parameters == parameters
    assert sum(shape.weight_bytes("bf16").values()) == 2 * parameters
    assert sum(shape.weight_bytes("fp32").values()) == 4 * parameters


def test_fp8_keeps_embedding_norms_router_and_lm_head_in_16_bits():
    shape = ModelShape.from_config(conf("qwen3_30b_a3b"))
    full, fp8 = shape.weight_bytes("bf16"), shape.weight_bytes("fp8")
    for component in ("embedding", "router", "vectors", "lm_head"):
        assert fp8[component] == full[component] > 0
    for component in ("attention", "experts"):
        assert 2 * fp8[component] == full[component] > 0


def test_kv_bytes_and_head_replication():
    shape = ModelShape.from_config(conf("qwen3_30b_a3b"))  # 4 KV heads
    assert shape.kv_bytes_per_token() == 2 * 48 * 4 * 128 * 2
    assert shape.kv_bytes_per_token(tp=4) == 2 * 48 * 1 * 128 * 2
    assert shape.kv_bytes_per_token(tp=8) == shape.kv_bytes_per_token(tp=4)
    assert shape.kv_bytes_per_token(tp=2, kv_dtype="fp8") == 2 * 48 * 2 * 128
    query = shape.parameters_by_component(8)["attention"] / (48 * 2048 * 128)
    assert query == 2 * 4 + 2 * 1  # Q and O: 4 heads each; K and V: one replicated head each


def test_tensor_parallelism_splits_weights():
    shape = ModelShape.from_config(conf("llama3_70b"))
    whole, share = shape.weight_bytes(tp=1), shape.weight_bytes(tp=8)
    for component in ("embedding", "attention", "mlp", "lm_head"):
        assert share[component] * 8 == whole[component]
    assert share["vectors"] == whole["vectors"]


@pytest.mark.parametrize("tp", [0, -1, 3, 64, 2.0, "2", True])
def test_tp_that_does_not_divide_names_the_choices(tp):
    shape = ModelShape.from_config(conf("qwen3_8b"))
    with pytest.raises(CostConfigError, match=r"tp=.*32 heads, 8 KV heads.*1, 2, 4, 8, 16, 32"):
        shape.kv_bytes_per_token(tp=tp)


def test_config_json_by_file_and_by_folder(tmp_path):
    folder = tmp_path / "My-Model"
    folder.mkdir()
    config = {key: value for key, value in conf("qwen3_14b").items() if key not in ("name", "path")}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    by_folder = ModelShape.from_config({"path": str(folder)})
    by_file = ModelShape.from_config({**conf("qwen3_0_6b"), "path": str(folder / "config.json")})
    assert by_folder == by_file
    assert by_folder.name == "My-Model"
    assert by_folder.parameters == 14_768_307_200


def test_other_architectures():
    qwen2 = {
        "architectures": ["Qwen2ForCausalLM"],
        "hidden_size": 896,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "intermediate_size": 4864,
        "vocab_size": 151936,
        "max_position_embeddings": 32768,
        "tie_word_embeddings": True,
        "use_sliding_window": False,
        "sliding_window": 32768,
    }
    assert ModelShape.from_hf_config(qwen2).parameters == 494_032_768  # Qwen2.5-0.5B, biases counted
    mixtral = {
        "architectures": ["MixtralForCausalLM"],
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "intermediate_size": 14336,
        "vocab_size": 32000,
        "max_position_embeddings": 32768,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "sliding_window": None,
    }
    assert ModelShape.from_hf_config(mixtral).parameters == 46_702_792_704  # Mixtral-8x7B


def test_dense_layers_among_moe_layers():
    sparse = ModelShape.from_config({**conf("qwen3_30b_a3b"), "decoder_sparse_step": 2, "mlp_only_layers": [1]})
    assert sparse.moe_layers == 23
    assert sparse.dense_layers == 25
    assert sparse.parameters_by_component()["mlp"] == 25 * 3 * 2048 * 6144


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": None}, r"model: hidden_size is missing"),
        ({"num_hidden_layers": 0}, r"num_hidden_layers=0 must be a whole number of at least 1"),
        ({"vocab_size": "many"}, r"vocab_size='many' must be a whole number"),
        ({"num_key_value_heads": 5}, r"num_key_value_heads=5 must divide num_attention_heads=32"),
        ({"tie_word_embeddings": "no"}, r"tie_word_embeddings='no' must be true or false"),
        ({"architectures": ["DeepseekV3ForCausalLM"]}, r"DeepseekV3ForCausalLM.* is not supported: .*Qwen3"),
        ({"architectures": None}, r"architectures=None is not supported"),
        ({"architectures": [{}]}, r"is not supported"),
        (
            {"quantization_config": {"quant_method": "awq"}},
            r"quantization_config is not modelled.*weight_dtype",
        ),
        ({"sliding_window": 4096, "use_sliding_window": True}, r"sliding_window=4096 is not modelled"),
        ({"head_dim": None, "num_attention_heads": 24}, r"head_dim is missing.*=24.*hidden_size=4096"),
        ({"mlp_bias": True}, r"mlp_bias=true is not modelled"),
    ],
)
def test_bad_fields_name_field_and_value(change, message):
    with pytest.raises(CostConfigError, match=message):
        ModelShape.from_config({**conf("qwen3_8b"), **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_experts": None}, r"num_experts is missing"),
        ({"num_experts_per_tok": 129}, r"num_experts_per_tok=129 must be at most the 128 experts"),
        ({"mlp_only_layers": 3}, r"mlp_only_layers=3 must be a list"),
    ],
)
def test_bad_moe_fields(change, message):
    with pytest.raises(CostConfigError, match=message):
        ModelShape.from_config({**conf("qwen3_30b_a3b"), **change})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"model\.path=.*cannot read .*config\.json"),
        (b"{", r"is not JSON"),
        (b"\xff\xfe", r"is not JSON"),
        (b"[1]", r"holds no JSON object"),
    ],
)
def test_unreadable_config_json(tmp_path, content, message):
    if content is not None:
        (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(CostConfigError, match=message):
        load_model_config(tmp_path)

"""Model configurations: both spellings of Hugging Face, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from runtime.models.config import Llama3Scaling, load_model_config
from runtime.models.errors import ModelConfigError

CONF = Path(__file__).parents[2] / "conf" / "model"
BASE: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "vocab_size": 100,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def test_both_spellings_are_one_model() -> None:
    old = {**BASE, "rope_theta": 5e5, "rope_scaling": LLAMA3, "torch_dtype": "float32", "num_experts": 4}
    new = {**BASE, "rope_parameters": {**LLAMA3, "rope_theta": 5e5}, "dtype": "float32", "num_local_experts": 4}
    experts = {"num_experts_per_tok": 2, "moe_intermediate_size": 8}
    config = load_model_config({**old, **experts})
    assert config == load_model_config({**new, **experts})
    assert config.rope_scaling == Llama3Scaling(8.0, 1.0, 4.0, 64)
    assert config.rope_theta == 5e5
    assert config.num_key_value_heads == 4
    assert config.head_dim == 16


@pytest.mark.parametrize("file", sorted(CONF.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_model_of_ours_is_read(file: Path) -> None:
    omegaconf = pytest.importorskip("omegaconf")
    registry = pytest.importorskip("runtime.models.registry")
    config = load_model_config(omegaconf.OmegaConf.to_container(omegaconf.OmegaConf.load(file)))
    assert config.architecture in registry.ARCHITECTURES


def test_files(tmp_path: Path) -> None:
    with pytest.raises(ModelConfigError, match=r"config\.json"):
        load_model_config(tmp_path)
    file = tmp_path / "config.json"
    file.write_text("{")
    with pytest.raises(ModelConfigError, match="not JSON"):
        load_model_config(tmp_path)
    file.write_text("[]")
    with pytest.raises(ModelConfigError, match="mapping of fields"):
        load_model_config(tmp_path)
    file.write_text(json.dumps(BASE))
    assert load_model_config(tmp_path) == load_model_config(str(file)) == load_model_config(BASE)
    assert load_model_config({"path": str(tmp_path)}) == load_model_config(BASE)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": None}, "vocab_size=None: an integer over 0"),
        ({"hidden_size": "64"}, "hidden_size='64'"),
        ({"num_hidden_layers": 0}, "num_hidden_layers=0"),
        ({"num_hidden_layers": True}, "num_hidden_layers=True"),
        ({"num_attention_heads": 5}, "num_attention_heads=5: it must divide hidden_size=64"),
        ({"num_key_value_heads": 3}, "num_key_value_heads=3: it must divide"),
        ({"head_dim": 7}, "head_dim=7"),
        ({"architectures": None}, "architectures=None"),
        ({"architectures": ["A", "B"]}, "architectures"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu': only silu"),
        ({"dtype": "int8"}, "dtype='int8': one of float32"),
        ({"sliding_window": 128}, "sliding_window=128.*max_position_embeddings=128"),
        ({"use_sliding_window": True, "sliding_window": 128}, "sliding_window=128"),
        ({"quantization_config": {"bits": 4}}, "quantized"),
        ({"rope_scaling": {"type": "yarn", "factor": 4.0}}, "type='yarn'"),
        ({"rope_scaling": {**LLAMA3, "factor": None}}, "rope_scaling: factor=None"),
        ({"rope_scaling": [1]}, "rope_scaling=.*mapping"),
        ({"rope_theta": -1.0}, "rope_theta=-1.0"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings='yes'"),
        ({"num_experts": 4, "num_experts_per_tok": 5, "moe_intermediate_size": 8}, "num_experts_per_tok=5: at most"),
        ({"eos_token_id": "two"}, "eos_token_id='two'"),
    ],
)
def test_bad_fields_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelConfigError, match=message):
        load_model_config({**BASE, **changes})


def test_a_sliding_window_that_never_cuts_is_none() -> None:
    plain = load_model_config(BASE)
    assert load_model_config({**BASE, "sliding_window": 512}) == plain
    assert load_model_config({**BASE, "sliding_window": 64, "use_sliding_window": False}) == plain


def test_an_unknown_architecture_names_the_known_ones() -> None:
    registry = pytest.importorskip("runtime.models.registry")
    config = load_model_config({**BASE, "architectures": ["GPT2LMHeadModel"]})
    with pytest.raises(ModelConfigError, match=r"GPT2LMHeadModel.*Qwen3ForCausalLM"):
        registry.build_model(config, None)

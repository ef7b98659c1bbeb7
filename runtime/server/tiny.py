"""The built-in model: random weights, and the vocabulary of the byte-level tokenizer. Nothing is downloaded."""

from __future__ import annotations

from typing import Any

from runtime.server.text import BYTE_LEVEL_VOCAB_SIZE

TINY = "tiny"
TINY_SEED = 0
TINY_MODEL: dict[str, Any] = {  # fields of a Hugging Face config.json
    "architectures": ["Qwen3ForCausalLM"],
    "hidden_size": 64,
    "intermediate_size": 192,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": BYTE_LEVEL_VOCAB_SIZE,
    "max_position_embeddings": 4096,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "dtype": "float32",
}

"""Small random models of every architecture, as transformers makes and saves them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch

VOCAB_SIZE = 101

_SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": False,
}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
_MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}

# Name: transformers' class of configuration, and what differs from the shape above.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {"rope_parameters": _LLAMA3}),
    "llama_biases": ("LlamaConfig", {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    "mistral": ("MistralConfig", {"num_key_value_heads": 1, "sliding_window": None}),
    "qwen2": ("Qwen2Config", {"num_key_value_heads": 4, "tie_word_embeddings": True}),
    "qwen3": ("Qwen3Config", {"head_dim": 24, "num_hidden_layers": 3}),
    "qwen3_moe": ("Qwen3MoeConfig", {**_MOE, "norm_topk_prob": True}),
    "qwen3_moe_mixed": ("Qwen3MoeConfig", {**_MOE, "norm_topk_prob": False, "mlp_only_layers": [1]}),
}


def make_model(name: str, folder: Path) -> Any:
    """Make one of :data:`MODELS`, every weight random, and save it in several files; returns it."""
    import transformers

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kind, changes = MODELS[name]
        config = getattr(transformers, kind)(**{**_SHAPE, **changes})
        model: Any = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
        generator = torch.Generator().manual_seed(len(name))
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data = 1 + 0.2 * noise if parameter.dim() == 1 else noise * parameter.shape[-1] ** -0.5
        model.tie_weights()
        model.save_pretrained(folder, max_shard_size="100KB")
    return model.eval()


@torch.inference_mode()
def continued(model: Any, prompt: list[int], count: int) -> list[int]:
    """transformers' greedy continuation of a prompt."""
    ids = torch.tensor([prompt])
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=count,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    return list(out[0, len(prompt) :].tolist())


@torch.inference_mode()
def all_logits(model: Any, prompt: list[int]) -> torch.Tensor:
    """transformers' logits at every position of a prompt: (tokens, vocab_size)."""
    logits: torch.Tensor = model(torch.tensor([prompt])).logits[0]
    return logits

"""Architectures by the name that Hugging Face gives them."""

from __future__ import annotations

from runtime.layers.parts import Placement
from runtime.models.config import ModelConfig
from runtime.models.decoder import CausalLm
from runtime.models.errors import ModelConfigError
from runtime.models.llama import Llama
from runtime.models.mistral import Mistral
from runtime.models.qwen2 import Qwen2
from runtime.models.qwen3 import Qwen3
from runtime.models.qwen3_moe import Qwen3Moe

ARCHITECTURES: dict[str, type[CausalLm]] = {
    "LlamaForCausalLM": Llama,
    "MistralForCausalLM": Mistral,
    "Qwen2ForCausalLM": Qwen2,
    "Qwen3ForCausalLM": Qwen3,
    "Qwen3MoeForCausalLM": Qwen3Moe,
}


def build_model(config: ModelConfig, placement: Placement) -> CausalLm:
    """A model with weights of zero, for a loader to fill.

    Raises:
        ModelConfigError: The architecture is not among those supported.
        ParallelError: The model cannot be divided over so many ranks.
    """
    kind = ARCHITECTURES.get(config.architecture)
    if kind is None:
        raise ModelConfigError(
            f"architectures=[{config.architecture}]: not supported; supported are {', '.join(sorted(ARCHITECTURES))}"
        )
    return kind(config, placement).eval()

"""Qwen3 (arXiv 2505.09388), dense."""

from __future__ import annotations

from runtime.layers.attention import SelfAttention
from runtime.layers.mlp import GatedMlp
from runtime.layers.parts import Placement
from runtime.models.config import ModelConfig
from runtime.models.decoder import CausalLm, DecoderLayer


class Qwen3(CausalLm):
    """Llama's layers with normalised query and key heads."""

    @staticmethod
    def layer(config: ModelConfig, placement: Placement, index: int) -> DecoderLayer:
        bias = config.attention_bias
        attention = SelfAttention(config, placement, index, qkv_bias=bias, output_bias=bias, qk_norm=True)
        mlp = GatedMlp(placement, config.hidden_size, config.intermediate_size, bias=False)
        return DecoderLayer(config, placement, attention, mlp)

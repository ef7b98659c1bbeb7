"""Llama 3 (arXiv 2407.21783)."""

from __future__ import annotations

from runtime.layers.attention import SelfAttention
from runtime.layers.mlp import GatedMlp
from runtime.layers.parts import Placement
from runtime.models.config import ModelConfig
from runtime.models.decoder import CausalLm, DecoderLayer


class Llama(CausalLm):
    """Grouped-query attention, SwiGLU, rotary embeddings with Llama 3.1's scaling."""

    @staticmethod
    def layer(config: ModelConfig, placement: Placement, index: int) -> DecoderLayer:
        bias = config.attention_bias
        attention = SelfAttention(config, placement, index, qkv_bias=bias, output_bias=bias)
        mlp = GatedMlp(placement, config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        return DecoderLayer(config, placement, attention, mlp)

"""Qwen2 and Qwen2.5 (arXiv 2412.15115)."""

from __future__ import annotations

from runtime.layers.attention import SelfAttention
from runtime.layers.mlp import GatedMlp
from runtime.layers.parts import Placement
from runtime.models.config import ModelConfig
from runtime.models.decoder import CausalLm, DecoderLayer


class Qwen2(CausalLm):
    """Llama's layers with biases on query, key and value projections."""

    @staticmethod
    def layer(config: ModelConfig, placement: Placement, index: int) -> DecoderLayer:
        attention = SelfAttention(config, placement, index, qkv_bias=True, output_bias=False)
        mlp = GatedMlp(placement, config.hidden_size, config.intermediate_size, bias=False)
        return DecoderLayer(config, placement, attention, mlp)

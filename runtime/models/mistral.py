"""Mistral (arXiv 2310.06825), without its sliding window: later versions have none."""

from __future__ import annotations

from runtime.layers.attention import SelfAttention
from runtime.layers.mlp import GatedMlp
from runtime.layers.parts import Placement
from runtime.models.config import ModelConfig
from runtime.models.decoder import CausalLm, DecoderLayer


class Mistral(CausalLm):
    """Llama's layers, never a bias."""

    @staticmethod
    def layer(config: ModelConfig, placement: Placement, index: int) -> DecoderLayer:
        attention = SelfAttention(config, placement, index, qkv_bias=False, output_bias=False)
        mlp = GatedMlp(placement, config.hidden_size, config.intermediate_size, bias=False)
        return DecoderLayer(config, placement, attention, mlp)

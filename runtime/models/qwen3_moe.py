"""Qwen3-MoE (arXiv 2505.09388): Qwen3 with a mixture of experts."""

from __future__ import annotations

from torch import nn

from runtime.layers.attention import SelfAttention
from runtime.layers.mlp import GatedMlp
from runtime.layers.moe import SparseMoe
from runtime.layers.parts import Placement
from runtime.models.config import ModelConfig
from runtime.models.decoder import CausalLm, DecoderLayer
from runtime.models.errors import ModelConfigError


class Qwen3Moe(CausalLm):
    """Qwen3's attention; in sparse layers, experts in place of the MLP."""

    @staticmethod
    def layer(config: ModelConfig, placement: Placement, index: int) -> DecoderLayer:
        """Sparse or dense, as the configuration says.

        Raises:
            ModelConfigError: The configuration describes no experts.
        """
        moe = config.moe
        if moe is None:
            raise ModelConfigError("Qwen3MoeForCausalLM: num_experts is missing in the model's configuration")
        bias = config.attention_bias
        attention = SelfAttention(config, placement, index, qkv_bias=bias, output_bias=bias, qk_norm=True)
        mlp: nn.Module = (
            SparseMoe(placement, config.hidden_size, moe)
            if moe.sparse(index)
            else GatedMlp(placement, config.hidden_size, config.intermediate_size, bias=False)
        )
        return DecoderLayer(config, placement, attention, mlp)

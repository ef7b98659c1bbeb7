"""The attention block of a decoder layer: projections, rotary embeddings, attention over paged KV."""

from __future__ import annotations

from torch import Tensor

from runtime.attention.base import AttentionStep
from runtime.kernels import HeadNorms
from runtime.layers.linear import ColumnLinear, Output, RowLinear, split_output
from runtime.layers.norm import RmsNorm
from runtime.layers.parts import Module, Placement
from runtime.layers.rope import Rotation
from runtime.models.config import ModelConfig
from runtime.models.errors import ParallelError


def local_kv_heads(config: ModelConfig, size: int) -> int:
    """KV heads that each of ``size`` ranks holds; where there are more ranks than heads, some hold the same one.

    Raises:
        ParallelError: Neither divides the other.
    """
    heads = config.num_key_value_heads
    if heads % size and size % heads:
        raise ParallelError(f"tp={size}: take a divisor or a multiple of the model's num_key_value_heads={heads}")
    return max(heads // size, 1)


def kv_output(config: ModelConfig, placement: Placement, name: str) -> Output:
    """This rank's part of the key or the value projection."""
    size, rank = placement.communicator.size, placement.communicator.rank
    heads, width = config.num_key_value_heads, config.head_dim
    count = local_kv_heads(config, size)
    first = rank * count if size <= heads else rank // (size // heads)
    return Output(name, heads * width, first * width, count * width)


class SelfAttention(Module):
    """Grouped-query attention; heads are divided over ranks.

    Args:
        config: Shape.
        layer: Number of the layer, which names its KV.
        qkv_bias: Whether query, key and value projections have biases.
        output_bias: Whether the output projection has.
        qk_norm: Whether each query and key head is normalised before it is rotated (Qwen3).
    """

    def __init__(
        self,
        config: ModelConfig,
        placement: Placement,
        layer: int,
        *,
        qkv_bias: bool,
        output_bias: bool,
        qk_norm: bool = False,
    ) -> None:
        super().__init__()
        self._layer = layer
        self._kernels = placement.kernels
        self._head_dim = config.head_dim
        placement.share("num_attention_heads", config.num_attention_heads)
        width = config.num_attention_heads * config.head_dim
        outputs = [
            split_output(placement, "q_proj", width),
            kv_output(config, placement, "k_proj"),
            kv_output(config, placement, "v_proj"),
        ]
        self.qkv_proj = ColumnLinear(placement, config.hidden_size, outputs, bias=qkv_bias)
        self.o_proj = RowLinear(placement, width, config.hidden_size, bias=output_bias)
        self.q_norm = RmsNorm(placement, config.head_dim, config.rms_norm_eps) if qk_norm else None
        self.k_norm = RmsNorm(placement, config.head_dim, config.rms_norm_eps) if qk_norm else None

    def forward(self, x: Tensor, rotation: Rotation, attention: AttentionStep) -> Tensor:
        """(tokens, hidden_size) to the same, this rank's part of the sum."""
        qkv = self.qkv_proj(x).unflatten(-1, (-1, self._head_dim))
        norms = None
        if self.q_norm is not None and self.k_norm is not None:
            norms = HeadNorms(self.q_norm.weight, self.k_norm.weight, self.q_norm.eps)
        out = attention.rotate_and_attend(self._layer, qkv, norms, rotation.cos, rotation.sin, self._kernels)
        result: Tensor = self.o_proj(out.flatten(-2))
        return result

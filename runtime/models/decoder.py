"""What all decoder-only models share: embeddings, a stack of layers, a norm, the LM head."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

from torch import Tensor, nn

from runtime.attention.base import AttentionStep
from runtime.layers.embedding import LmHead, VocabularyEmbedding
from runtime.layers.norm import RmsNorm
from runtime.layers.parts import Layer, Module, Part, Placement
from runtime.layers.rope import RotaryEmbedding, Rotation
from runtime.models.config import ModelConfig


class DecoderLayer(Module):
    """Attention, then a feed-forward block, each on the normalised stream and added to it.

    Args:
        self_attn: The attention block.
        mlp: The feed-forward block.
    """

    def __init__(self, config: ModelConfig, placement: Placement, self_attn: nn.Module, mlp: nn.Module) -> None:
        super().__init__()
        self.input_layernorm = RmsNorm(placement, config.hidden_size, config.rms_norm_eps)
        self.self_attn = self_attn
        self.post_attention_layernorm = RmsNorm(placement, config.hidden_size, config.rms_norm_eps)
        self.mlp = mlp

    def forward(
        self, x: Tensor, residual: Tensor | None, rotation: Rotation, attention: AttentionStep
    ) -> tuple[Tensor, Tensor]:
        """What the layer before computed and the stream that it is still to be added to, to the same of this layer.

        Args:
            x: (tokens, hidden_size): this rank's part of it, which the norm sums over ranks.
            residual: The same; None before the first layer.
            rotation: The step's.
            attention: The step's.
        """
        x, residual = self.input_layernorm.add(x, residual)
        x, residual = self.post_attention_layernorm.add(self.self_attn(x, rotation, attention), residual)
        return self.mlp(x), residual


class Decoder(Module):
    """Embeddings, layers and the last norm."""

    def __init__(self, config: ModelConfig, placement: Placement, layers: list[DecoderLayer]) -> None:
        super().__init__()
        self.embed_tokens = VocabularyEmbedding(placement, config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(layers)
        self.norm = RmsNorm(placement, config.hidden_size, config.rms_norm_eps)
        self._rotary = RotaryEmbedding(placement, config.head_dim, config.rope_theta, config.rope_scaling)

    def forward(self, tokens: Tensor, positions: Tensor, attention: AttentionStep) -> Tensor:
        """(tokens,) ids and positions to (tokens, hidden_size)."""
        rotation = self._rotary(positions)
        x: Tensor = self.embed_tokens(tokens)
        residual: Tensor | None = None
        for layer in self.layers:
            x, residual = layer(x, residual, rotation, attention)
        return self.norm.add(x, residual)[0]


class CausalLm(Module, ABC):
    """A model that predicts the next token. A subclass says what its layers are made of.

    The names of modules are those of the checkpoint's tensors.

    Args:
        config: Shape.
        placement: Ranks, device and dtype.

    Raises:
        ParallelError: The model cannot be divided over so many ranks.
    """

    def __init__(self, config: ModelConfig, placement: Placement) -> None:
        super().__init__()
        layers = [self.layer(config, placement, index) for index in range(config.num_hidden_layers)]
        self.model = Decoder(config, placement, layers)
        tied = self.model.embed_tokens if config.tie_word_embeddings else None
        self.lm_head = LmHead(placement, config.vocab_size, config.hidden_size, tied)

    @staticmethod
    @abstractmethod
    def layer(config: ModelConfig, placement: Placement, index: int) -> DecoderLayer:
        """Layer number ``index``."""

    def forward(self, tokens: Tensor, positions: Tensor, attention: AttentionStep) -> Tensor:
        """One step of all its sequences' tokens, side by side.

        Args:
            tokens: (tokens,) ids.
            positions: (tokens,) position of each in its sequence.
            attention: The step's.

        Returns:
            (tokens, hidden_size).
        """
        hidden: Tensor = self.model(tokens, positions, attention)
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of the next token: (rows, hidden_size) to (rows, vocab_size)."""
        scores: Tensor = self.lm_head(hidden)
        return scores

    def parts(self) -> Iterator[Part]:
        """What this rank takes of the checkpoint's tensors."""
        for name, module in self.named_modules():
            if isinstance(module, Layer):
                yield from module.parts(name)

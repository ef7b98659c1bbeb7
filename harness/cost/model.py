"""A model's architecture as far as time and memory depend on it: shapes, exact weight bytes, KV bytes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from harness.cost.errors import CostConfigError
from harness.cost.fields import Fields

if TYPE_CHECKING:
    from collections.abc import Mapping

DTYPE_BYTES = {"bf16": 2, "fp8": 1, "fp32": 4}
"""Bytes of one number, by the name of its dtype (fp16 takes what bf16 takes)."""

# What an fp8 checkpoint keeps in 16 bits, as Qwen3's and Llama's fp8 releases do.
_NEVER_QUANTIZED = ("embedding", "router", "vectors", "lm_head")


class _Family(NamedTuple):
    """What an architecture's name says that its config.json does not."""

    qk_norm: bool = False
    always_qkv_bias: bool = False
    experts_field: str | None = None


_FAMILIES = {
    "LlamaForCausalLM": _Family(),
    "MistralForCausalLM": _Family(),
    "MixtralForCausalLM": _Family(experts_field="num_local_experts"),
    "Phi3ForCausalLM": _Family(),
    "Qwen2ForCausalLM": _Family(always_qkv_bias=True),
    "Qwen3ForCausalLM": _Family(qk_norm=True),
    "Qwen3MoeForCausalLM": _Family(qk_norm=True, experts_field="num_experts"),
}


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A decoder with grouped-query attention and SwiGLU, dense or mixture of experts (MoE).

    Attributes:
        name: What reports call it.
        hidden_size: Width of the residual stream.
        layers: Decoder layers.
        heads: Query heads.
        kv_heads: Key and value heads.
        head_dim: Width of a head.
        intermediate_size: Width of a dense layer's MLP.
        vocab_size: Rows of the embedding, and of the LM head.
        max_position_embeddings: Longest context, tokens.
        tie_word_embeddings: The LM head is the embedding.
        qkv_bias: Query, key and value projections have biases.
        output_bias: The attention's output projection has a bias.
        qk_norm: Queries and keys are normalized per head.
        experts: Experts of an MoE layer, 0 for a dense model.
        experts_per_token: Experts that each token is routed to.
        moe_intermediate_size: Width of one expert.
        moe_layers: How many of the layers are MoE.
    """

    name: str
    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate_size: int
    vocab_size: int
    max_position_embeddings: int
    tie_word_embeddings: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    qk_norm: bool = False
    experts: int = 0
    experts_per_token: int = 0
    moe_intermediate_size: int = 0
    moe_layers: int = 0

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """The model of a ``model`` configuration: its fields, or the file that its ``path`` names.

        Raises:
            CostConfigError: A field is missing, out of range or not supported, or the file cannot be read.
        """
        path = config.get("path")
        if path is None:
            return cls.from_hf_config(config)
        return cls.from_hf_config(load_model_config(path), str(path))

    @classmethod
    def from_hf_config(cls, config: Mapping[str, Any], source: str = "model") -> Self:
        """The model that a Hugging Face ``config.json`` describes.

        Args:
            config: The parsed file; a ``name`` may stand beside its own fields.
            source: What error messages call it.

        Raises:
            CostConfigError: A field is missing, out of range or not supported.
        """
        family = _family(config, source)
        fields = Fields(config, f"{source}: ")
        heads = fields.integer("num_attention_heads")
        hidden_size = fields.integer("hidden_size")
        kv_heads = fields.integer("num_key_value_heads", default=heads)
        if heads % kv_heads:
            raise CostConfigError(f"{source}: num_key_value_heads={kv_heads} must divide num_attention_heads={heads}")
        if not fields.has("head_dim") and hidden_size % heads:
            raise CostConfigError(
                f"{source}: head_dim is missing, and num_attention_heads={heads} does not divide "
                f"hidden_size={hidden_size}"
            )
        layers = fields.integer("num_hidden_layers")
        bias = fields.boolean("attention_bias", default=False)
        shape = cls(
            name=fields.text("name", default=source),
            hidden_size=hidden_size,
            layers=layers,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=fields.integer("head_dim", default=hidden_size // heads),
            intermediate_size=fields.integer("intermediate_size"),
            vocab_size=fields.integer("vocab_size"),
            max_position_embeddings=fields.integer("max_position_embeddings"),
            tie_word_embeddings=fields.boolean("tie_word_embeddings", default=False),
            qkv_bias=bias or family.always_qkv_bias,
            output_bias=bias,
            qk_norm=family.qk_norm,
            **_experts(fields, config, family, layers, source),
        )
        if shape.experts_per_token > shape.experts:
            raise CostConfigError(
                f"{source}: num_experts_per_tok={shape.experts_per_token} must be at most the {shape.experts} experts"
            )
        return shape

    @property
    def query_size(self) -> int:
        """Width of all query heads together."""
        return self.heads * self.head_dim

    @property
    def dense_layers(self) -> int:
        """Layers with a dense MLP."""
        return self.layers - self.moe_layers

    @property
    def parameters(self) -> int:
        """Parameters of the whole model; a tied LM head counts once."""
        return sum(self.parameters_by_component().values())

    def kv_heads_per_gpu(self, tp: int) -> int:
        """KV heads that each GPU holds: a share, or one replicated head where ``tp`` exceeds their number."""
        return max(1, self.kv_heads // tp)

    def parameters_by_component(self, tp: int = 1) -> dict[str, int]:
        """Parameters on each GPU by component, split as Megatron-LM splits them (Shoeybi et al., 2019).

        Raises:
            CostConfigError: ``tp`` does not divide the model.
        """
        self.check_tp(tp)
        h = self.hidden_size
        query, kv = self.query_size // tp, self.kv_heads_per_gpu(tp) * self.head_dim
        vocabulary = -(-self.vocab_size // tp) * h
        biases = (query + 2 * kv if self.qkv_bias else 0) + (h if self.output_bias else 0)
        norms = 2 * h + (2 * self.head_dim if self.qk_norm else 0)
        return {
            "embedding": vocabulary,
            "attention": self.layers * h * (2 * query + 2 * kv),
            "mlp": self.dense_layers * 3 * h * (self.intermediate_size // tp),
            "experts": self.moe_layers * self.experts * 3 * h * (self.moe_intermediate_size // tp),
            "router": self.moe_layers * h * self.experts,
            "vectors": self.layers * (norms + biases) + h,
            "lm_head": 0 if self.tie_word_embeddings else vocabulary,
        }

    def weight_bytes(self, dtype: str = "bf16", tp: int = 1) -> dict[str, int]:
        """Bytes of weights on each GPU by component.

        With fp8 the embedding, the router, norms, biases and the LM head stay in 16 bits; the scales (one for
        128 x 128 weights, 0.02 %) are left out.

        Raises:
            CostConfigError: ``tp`` does not divide the model.
        """
        return {
            component: count * component_bytes(component, dtype)
            for component, count in self.parameters_by_component(tp).items()
        }

    def kv_bytes_per_token(self, tp: int = 1, kv_dtype: str = "bf16") -> int:
        """Bytes of keys and values that one token takes on each GPU."""
        self.check_tp(tp)
        return 2 * self.layers * self.kv_heads_per_gpu(tp) * self.head_dim * DTYPE_BYTES[kv_dtype]

    def check_tp(self, tp: int) -> None:
        """Raises :class:`CostConfigError` unless the model can be split over ``tp`` GPUs."""
        if self.splits(tp):
            return
        possible = [str(n) for n in range(1, min(self.heads, 64) + 1) if self.splits(n)]
        raise CostConfigError(
            f"tp={tp!r} does not divide {self.name} ({self.heads} heads, {self.kv_heads} KV heads): "
            f"choose among {', '.join(possible)}"
        )

    def splits(self, tp: int) -> bool:
        """True if ``tp`` divides heads and MLP, and KV heads are shared or replicated evenly."""
        if isinstance(tp, bool) or not isinstance(tp, int) or tp < 1:
            return False
        even_kv = self.kv_heads % tp == 0 or tp % self.kv_heads == 0
        mlps = [self.intermediate_size] * (self.dense_layers > 0) + [self.moe_intermediate_size]
        return self.heads % tp == 0 and even_kv and all(width % tp == 0 for width in mlps)


def component_bytes(component: str, dtype: str) -> int:
    """Bytes of one weight of a component (as :meth:`ModelShape.weight_bytes` names it)."""
    return max(2, DTYPE_BYTES[dtype]) if component in _NEVER_QUANTIZED else DTYPE_BYTES[dtype]


def load_model_config(path: str | Path) -> dict[str, Any]:
    """Reads a Hugging Face ``config.json``: plain JSON, no code of the repository is run.

    Args:
        path: The file, or the folder that holds it; the folder's name becomes the model's.

    Raises:
        CostConfigError: There is no such file, or it is not a JSON object.
    """
    file = Path(path).expanduser()
    if file.is_dir():
        file = file / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise CostConfigError(
            f"model.path={path}: cannot read {file} ({error.strerror}): give a Hugging Face config.json or its folder"
        ) from None
    except ValueError as error:
        raise CostConfigError(f"model.path={path}: {file} is not JSON ({error})") from None
    if not isinstance(config, dict):
        raise CostConfigError(f"model.path={path}: {file} holds no JSON object")
    return {"name": file.resolve().parent.name, **config}


def _family(config: Mapping[str, Any], source: str) -> _Family:
    """The architecture's family, once everything that would change the arithmetic has been refused."""
    supported = ", ".join(sorted(_FAMILIES))
    names = config.get("architectures")
    name = names[0] if isinstance(names, (list, tuple)) and names else None
    if not isinstance(name, str) or name not in _FAMILIES:
        raise CostConfigError(f"{source}: architectures={names!r} is not supported: choose among {supported}")
    if config.get("quantization_config"):
        raise CostConfigError(
            f"{source}: quantization_config is not modelled: remove it and set cost.weight_dtype "
            f"({', '.join(DTYPE_BYTES)})"
        )
    window = config.get("sliding_window")
    if window is not None and config.get("use_sliding_window", True):
        raise CostConfigError(f"{source}: sliding_window={window!r} is not modelled: set it to null for full attention")
    if config.get("mlp_bias"):
        raise CostConfigError(f"{source}: mlp_bias=true is not modelled: set it to false")
    return _FAMILIES[name]


def _experts(fields: Fields, config: Mapping[str, Any], family: _Family, layers: int, source: str) -> dict[str, int]:
    """The MoE attributes of :class:`ModelShape`; none for a dense model."""
    if family.experts_field is None:
        return {}
    width = "moe_intermediate_size" if family.experts_field == "num_experts" else "intermediate_size"
    every = fields.integer("decoder_sparse_step", default=1)
    dense_only = config.get("mlp_only_layers") or ()
    if not isinstance(dense_only, (list, tuple)):
        raise CostConfigError(f"{source}: mlp_only_layers={dense_only!r} must be a list of layer numbers")
    return {
        "experts": fields.integer(family.experts_field),
        "experts_per_token": fields.integer("num_experts_per_tok"),
        "moe_intermediate_size": fields.integer(width),
        "moe_layers": sum((i + 1) % every == 0 and i not in dense_only for i in range(layers)),
    }

"""A model's shape, from a Hugging Face ``config.json`` or from the same fields in a mapping. No torch here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from runtime.models.errors import ModelConfigError

NumberT = TypeVar("NumberT", int, float)

DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True)
class Llama3Scaling:
    """Rotary frequencies of Llama 3.1 and later, stretched where their wavelength exceeds the old context.

    Attributes:
        factor: How much the lowest frequencies are slowed.
        low_freq_factor: Frequencies with fewer turns than this over the old context are slowed in full.
        high_freq_factor: Those with more turns than this are left alone; in between, interpolated.
        original_max_position_embeddings: The old context, tokens.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int


@dataclass(frozen=True, slots=True)
class MoeConfig:
    """A mixture of experts.

    Attributes:
        num_experts: Experts of a layer.
        num_experts_per_tok: Experts that a token is sent to.
        moe_intermediate_size: Inner width of an expert.
        norm_topk_prob: Whether the chosen experts' weights are scaled to sum to 1.
        decoder_sparse_step: Every how many layers have experts; the others a plain MLP.
        mlp_only_layers: Layers with a plain MLP whatever ``decoder_sparse_step`` says.
    """

    num_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int
    norm_topk_prob: bool
    decoder_sparse_step: int
    mlp_only_layers: tuple[int, ...]

    def sparse(self, layer: int) -> bool:
        """Whether a layer has experts."""
        return layer not in self.mlp_only_layers and (layer + 1) % self.decoder_sparse_step == 0


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A decoder-only transformer's shape; the names are Hugging Face's.

    Attributes:
        architecture: The class that Hugging Face names in ``architectures``.
        head_dim: Width of an attention head.
        rope_scaling: None for plain rotary embeddings.
        attention_bias: Whether the attention projections have biases, where the architecture leaves it open.
        mlp_bias: The same for the MLP.
        moe: None for a dense model.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        eos_token_ids: Tokens that end a sequence, as ``config.json`` has them.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    intermediate_size: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: Llama3Scaling | None
    tie_word_embeddings: bool
    attention_bias: bool
    mlp_bias: bool
    moe: MoeConfig | None
    dtype: str
    eos_token_ids: tuple[int, ...]


def load_model_config(source: Path | str | Mapping[str, Any]) -> ModelConfig:
    """Read a model's shape.

    Args:
        source: A folder with a ``config.json``, such a file, or its fields; a field ``path`` names the file to read
            instead.

    Raises:
        ModelConfigError: It cannot be read, lacks a field, has one of the wrong kind, or asks for what is not
            supported.
    """
    path = _path(source)
    if path is None:
        return _parse(_Fields(source, "model"))  # type: ignore[arg-type]
    file = path / "config.json" if path.is_dir() else path
    try:
        fields = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelConfigError(f"{file}: {error.strerror}; name a folder that holds a config.json") from None
    except ValueError as error:
        raise ModelConfigError(f"{file}: not JSON ({error})") from None
    if not isinstance(fields, dict):
        raise ModelConfigError(f"{file}: a mapping of fields is wanted, this is a {type(fields).__name__}")
    return _parse(_Fields(fields, str(file)))


def model_folder(source: Path | str | Mapping[str, Any]) -> Path | None:
    """The folder with the files of a model, or None where only its fields are given."""
    path = _path(source)
    return path.parent if path is not None and path.is_file() else path


def _path(source: Path | str | Mapping[str, Any]) -> Path | None:
    named = source.get("path") if isinstance(source, Mapping) else source
    return Path(named).expanduser() if named else None


class _Fields:
    """The fields of a configuration, each checked as it is read."""

    def __init__(self, fields: Mapping[str, Any], where: str) -> None:
        self._fields = fields
        self._where = where

    def get(self, *names: str) -> Any:
        """The first of these that is there and not null."""
        return next((self._fields[name] for name in names if self._fields.get(name) is not None), None)

    def wrong(self, name: str, wanted: str) -> ModelConfigError:
        return ModelConfigError(f"{self._where}: {name}={self._fields.get(name)!r}: {wanted}")

    def number(self, name: str, kind: type[NumberT], default: NumberT | None = None) -> NumberT:
        value = self.get(name)
        if value is None and default is not None:
            return default
        allowed = (int, float) if kind is float else (int,)
        if isinstance(value, bool) or not isinstance(value, allowed) or not value > 0:
            raise self.wrong(name, f"{'an integer' if kind is int else 'a number'} over 0 is wanted")
        return kind(value)

    def flag(self, name: str, default: bool) -> bool:
        value = self.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false is wanted")
        return value

    def inner(self, name: str) -> _Fields:
        value = self.get(name) or {}
        if not isinstance(value, Mapping):
            raise self.wrong(name, "a mapping is wanted")
        return _Fields(value, f"{self._where}: {name}")

    def integers(self, name: str) -> tuple[int, ...]:
        value = self.get(name)
        values = [] if value is None else [value] if isinstance(value, int) else value
        if not isinstance(values, list | tuple) or not all(isinstance(item, int) for item in values):
            raise self.wrong(name, "an integer or a list of integers is wanted")
        return tuple(values)


def _parse(fields: _Fields) -> ModelConfig:
    architectures = fields.get("architectures")
    if not isinstance(architectures, list | tuple) or len(architectures) != 1:
        raise fields.wrong("architectures", "a list of one name is wanted, such as [Qwen3ForCausalLM]")
    _refuse_unsupported(fields)
    heads = fields.number("num_attention_heads", int)
    hidden_size = fields.number("hidden_size", int)
    kv_heads = fields.number("num_key_value_heads", int, heads)
    if heads % kv_heads:
        raise fields.wrong("num_key_value_heads", f"it must divide num_attention_heads={heads}")
    if fields.get("head_dim") is None and hidden_size % heads:
        raise fields.wrong("num_attention_heads", f"it must divide hidden_size={hidden_size}, or give head_dim")
    head_dim = fields.number("head_dim", int, hidden_size // heads)
    if head_dim % 2:
        raise fields.wrong("head_dim", "rotary embeddings want an even one")
    dtype = str(fields.get("dtype", "torch_dtype") or "bfloat16").removeprefix("torch.")
    if dtype not in DTYPES:
        raise fields.wrong("dtype", f"one of {', '.join(DTYPES)} is wanted")
    rope = fields.inner("rope_parameters" if fields.get("rope_parameters") else "rope_scaling")
    return ModelConfig(
        architecture=str(architectures[0]),
        vocab_size=fields.number("vocab_size", int),
        hidden_size=hidden_size,
        num_hidden_layers=fields.number("num_hidden_layers", int),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=fields.number("intermediate_size", int),
        max_position_embeddings=fields.number("max_position_embeddings", int),
        rms_norm_eps=fields.number("rms_norm_eps", float, 1e-6),
        rope_theta=rope.number("rope_theta", float, fields.number("rope_theta", float, 10000.0)),
        rope_scaling=_rope_scaling(rope),
        tie_word_embeddings=fields.flag("tie_word_embeddings", False),
        attention_bias=fields.flag("attention_bias", False),
        mlp_bias=fields.flag("mlp_bias", False),
        moe=_moe(fields),
        dtype=dtype,
        eos_token_ids=fields.integers("eos_token_id"),
    )


def _refuse_unsupported(fields: _Fields) -> None:
    if fields.get("hidden_act") not in (None, "silu"):
        raise fields.wrong("hidden_act", "only silu is supported")
    if fields.get("quantization_config"):
        raise fields.wrong("quantization_config", "quantized checkpoints are not supported: take the bfloat16 one")
    if fields.get("partial_rotary_factor") not in (None, 1.0):
        raise fields.wrong("partial_rotary_factor", "only rotary embeddings of the whole head are supported")
    layer_types = fields.get("layer_types") or []
    if fields.flag("use_sliding_window", True) or "sliding_attention" in layer_types:
        window = fields.get("sliding_window")
        context = fields.number("max_position_embeddings", int)
        if window is not None and window < context:
            raise fields.wrong(
                "sliding_window",
                f"sliding-window attention is not supported: set max_position_embeddings={window} (now {context}), "
                "for contexts that the window never cuts",
            )


def _rope_scaling(rope: _Fields) -> Llama3Scaling | None:
    kind = rope.get("rope_type", "type") or "default"
    if kind == "default":
        return None
    if kind != "llama3":
        raise rope.wrong(
            "rope_type" if rope.get("rope_type") else "type", "rotary embeddings of type default or llama3"
        )
    scaling = Llama3Scaling(
        factor=rope.number("factor", float),
        low_freq_factor=rope.number("low_freq_factor", float),
        high_freq_factor=rope.number("high_freq_factor", float),
        original_max_position_embeddings=rope.number("original_max_position_embeddings", int),
    )
    if scaling.high_freq_factor <= scaling.low_freq_factor:
        raise rope.wrong("high_freq_factor", f"over low_freq_factor={scaling.low_freq_factor} is wanted")
    return scaling


def _moe(fields: _Fields) -> MoeConfig | None:
    name = "num_experts" if fields.get("num_experts") else "num_local_experts"  # transformers 4 and 5
    if fields.get(name) is None:
        return None
    experts = fields.number(name, int)
    chosen = fields.number("num_experts_per_tok", int)
    if chosen > experts:
        raise fields.wrong("num_experts_per_tok", f"at most {name}={experts}")
    return MoeConfig(
        num_experts=experts,
        num_experts_per_tok=chosen,
        moe_intermediate_size=fields.number("moe_intermediate_size", int),
        norm_topk_prob=fields.flag("norm_topk_prob", False),
        decoder_sparse_step=fields.number("decoder_sparse_step", int, 1),
        mlp_only_layers=fields.integers("mlp_only_layers"),
    )

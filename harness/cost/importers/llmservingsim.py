"""LLMServingSim 2.0's profiles: a ``meta.yaml`` over ``tp<N>/`` with dense, per_sequence, attention, moe and skew_fit.

Times are microseconds (``time_us``): of one layer for a number of tokens in ``dense.csv``, of LM head and sampler for a
number of sequences in ``per_sequence.csv``, of attention for a prefill chunk, its context, a number of decodes and
their context in ``attention.csv``, of a layer's experts in ``moe.csv``. ``skew_fit.csv`` says how far attention of
unequal contexts lies on the way from their mean to their longest.
"""

from __future__ import annotations

from math import log2
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from harness.complaint import first_line
from harness.cost.importers.csv_table import Row, read_rows
from harness.cost.importers.layerwise import STEP_OVERHEAD_S, Attention, ImportProfileError, Layerwise, Table

if TYPE_CHECKING:
    from harness.cost.roofline import Roofline

_US = 1e-6
_TIMES_IN_LAYER = {
    "layernorm": 2,
    "qkv_proj": 1,
    "qk_norm": 1,
    "rotary_emb": 1,
    "o_proj": 1,
    "gate_up_proj": 1,
    "act_fn": 1,
    "down_proj": 1,
}
_ONCE = ("embedding", "final_layernorm")
_HEAD = ("lm_head", "sampler")
_SKEWED = 4  # times the mean: the longest context of the unequal batches that stand for all


def recognises(directory: Path) -> bool:
    """Whether a directory holds such a profile: the one of a ``tp``, or the one above."""
    return (directory / "dense.csv").is_file() or any(directory.glob("tp*/dense.csv"))


def read(directory: Path, roofline: Roofline) -> Layerwise:
    """The kernels of a profile.

    Raises:
        ImportProfileError: A file, column or value is missing or wrong, or it is of another model or ``tp``.
    """
    model = roofline.model
    here = directory if (directory / "dense.csv").is_file() else directory / f"tp{roofline.tp}"
    if not (here / "dense.csv").is_file():
        there = ", ".join(sorted(path.parent.name for path in directory.glob("tp*/dense.csv")))
        raise ImportProfileError(f"{here}: nothing was profiled with tp={roofline.tp}; there is {there}")
    meta = _meta(here, roofline)
    dense, head = _layers(here / "dense.csv", "tokens"), _layers(here / "per_sequence.csv", "sequences")
    _check_known(here / "dense.csv", dense, (*_TIMES_IN_LAYER, *_ONCE))
    _check_known(here / "per_sequence.csv", head, _HEAD)
    experts = _experts(here / "moe.csv", roofline) if model.moe_layers else None

    def layers_s(rows: int) -> float:
        seconds = STEP_OVERHEAD_S + sum(dense[name].at(rows) for name in _ONCE if name in dense)
        for name, times in _TIMES_IN_LAYER.items():
            if name in dense:
                layers = model.dense_layers if name in ("gate_up_proj", "act_fn", "down_proj") else model.layers
                seconds += layers * times * dense[name].at(rows)
        return seconds if experts is None else seconds + model.moe_layers * experts.at(rows)

    return Layerwise(
        device=str(meta.get("gpu", roofline.hardware.name)),
        versions={"source": "llmservingsim", "vllm": str(meta.get("vllm_version", "unknown"))},
        layers_s=layers_s,
        head_s=lambda rows: sum(table.at(rows) for table in head.values()),
        attention=_attention(here, meta, roofline.tp),
    )


def _meta(here: Path, roofline: Roofline) -> dict[str, Any]:
    """What ``meta.yaml`` says, once it is known to be of this model."""
    import yaml  # type: ignore[import-untyped]

    path = here.parent / "meta.yaml"
    if not path.is_file():
        return {}
    try:
        meta = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ImportProfileError(f"{path}: cannot be read as YAML ({first_line(error)})") from None
    if not isinstance(meta, dict):
        raise ImportProfileError(f"{path}: expected fields such as gpu and engine_effective")
    shard = (meta.get("engine_effective") or {}).get("hf_overrides") or {}
    heads = shard.get("num_attention_heads")
    split = {roofline.model.heads // tp for tp in meta.get("tp_degrees") or (1, 2, 4, 8)}
    if heads is not None and heads not in split:
        raise ImportProfileError(
            f"{path}: it is of {meta.get('model')}, with {heads} heads on a device; {roofline.model.name} has "
            f"{roofline.model.heads} in all"
        )
    return meta


def _layers(path: Path, size: str) -> dict[str, Table]:
    """Seconds by size, for each layer of a file."""
    points: dict[str, list[tuple[float, float]]] = {}
    for row in read_rows(path):
        points.setdefault(row.text("layer"), []).append((row.number(size), row.number("time_us") * _US))
    if not points:
        raise ImportProfileError(f"{path}: nothing in it")
    return {layer: Table(found) for layer, found in points.items()}


def _check_known(path: Path, layers: dict[str, Table], known: tuple[str, ...]) -> None:
    unknown = sorted(set(layers) - set(known))
    if unknown:
        raise ImportProfileError(f"{path}: layer={unknown[0]} is not of a decoder that is modelled: {', '.join(known)}")


def _experts(path: Path, roofline: Roofline) -> Table:
    """Seconds of a layer's experts by tokens, with as many of them touched as even routing does."""
    model = roofline.model
    nearest: dict[float, tuple[float, float]] = {}
    for row in read_rows(path):
        tokens, touched = row.number("tokens"), row.number("activated_experts")
        even = model.experts * (1 - (1 - model.experts_per_token / model.experts) ** tokens)
        away = abs(log2(max(touched, 1.0) / max(even, 1.0)))
        if tokens not in nearest or away < nearest[tokens][0]:
            nearest[tokens] = (away, row.number("time_us") * _US)
    if not nearest:
        raise ImportProfileError(f"{path}: nothing in it")
    return Table((tokens, seconds) for tokens, (_, seconds) in nearest.items())


def _attention(here: Path, meta: dict[str, Any], tp: int) -> list[Attention]:
    """The grid of equal contexts, and beside it decodes of unequal ones."""
    points = [_point(row) for row in read_rows(here / "attention.csv")]
    alpha = _alpha(here / "skew_fit.csv", meta, tp)
    decodes = {(point.decodes, point.context): point.seconds for point in points if not point.prefills}
    for (sequences, context), seconds in decodes.items():
        longest_s = decodes.get((sequences, _SKEWED * context))
        if alpha > 0 and sequences > 1 and longest_s is not None:
            skewed_s = seconds + alpha * max(longest_s - seconds, 0.0)
            points.append(Attention(0, 0, 0, sequences, context, _SKEWED * context, skewed_s))
    return points


def _point(row: Row) -> Attention:
    chunk, decodes, context = row.count("prefill_chunk"), row.count("n_decode"), row.count("kv_decode")
    if not decodes:
        context = 0
    before = row.count("kv_prefill") if chunk else 0
    return Attention(int(chunk > 0), chunk, before, decodes, context, context, row.number("time_us") * _US)


def _alpha(path: Path, meta: dict[str, Any], tp: int) -> float:
    """How far from the mean context to the longest, for most batches."""
    per_tp = (meta.get("skew_fit") or {}).get("per_tp") or {}
    pooled = (per_tp.get(tp) or per_tp.get(str(tp)) or {}).get("alpha_default")
    if isinstance(pooled, int | float):
        return float(pooled)
    if not path.is_file():
        return 0.0
    fitted = [float(row.text("alpha")) for row in read_rows(path)]
    return median(fitted) if fitted else 0.0

"""Vidur's profiles (Agrawal et al., MLSys 2024): ``mlp.csv``, ``attention.csv``, and ``all_reduce.csv`` if there.

Times are milliseconds of one layer, the median in ``time_stats.<kernel>.median``. There is no LM head in them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from harness.cost.importers.csv_table import Row, read_rows
from harness.cost.importers.layerwise import STEP_OVERHEAD_S, Attention, ImportProfileError, Layerwise, Table

if TYPE_CHECKING:
    from harness.cost.roofline import Roofline

_MS = 1e-3
_LAYER = (
    "input_layernorm",
    "attn_pre_proj",
    "attn_rope",
    "attn_post_proj",
    "post_attention_layernorm",
    "mlp_up_proj",
    "mlp_act",
    "mlp_down_proj",
    "add",
)
_AROUND_ATTENTION = ("attn_input_reshape", "attn_kv_cache_save", "attn_output_reshape")


def recognises(directory: Path) -> bool:
    """Whether a directory holds such a profile."""
    return (directory / "mlp.csv").is_file()


def read(directory: Path, roofline: Roofline) -> Layerwise:
    """The kernels of a profile.

    Raises:
        ImportProfileError: A file, column or value is missing or wrong, or it is of another model or ``tp``.
    """
    model = roofline.model
    if model.moe_layers:
        raise ImportProfileError(f"{directory}: mlp.csv knows no experts: {model.name} cannot be imported from Vidur")
    mlp = directory / "mlp.csv"
    rows = _of_tp(mlp, roofline.tp)
    found = (rows[0].count("n_embd"), rows[0].count("n_head"), rows[0].count("n_kv_head"))
    wanted = (model.hidden_size, model.heads, model.kv_heads)
    if found != wanted:
        raise ImportProfileError(
            f"{mlp}: it is of a model with n_embd, n_head, n_kv_head = {found}, and {model.name} has {wanted}"
        )
    layer = Table((row.number("num_tokens"), sum(_median_s(row, kernel) for kernel in _LAYER)) for row in rows)
    embedding = Table((row.number("num_tokens"), _median_s(row, "emb")) for row in rows)
    attention = [_attention(row) for row in _of_tp(directory / "attention.csv", roofline.tp)]
    network = directory / "all_reduce.csv"
    reduce_s = None
    if network.is_file() and roofline.tp > 1:
        sized = [row for row in read_rows(network) if row.count("num_workers") == roofline.tp]
        reduce_s = Table((row.number("size"), _median_s(row, "all_reduce")) for row in sized) if sized else None
    return Layerwise(
        device=roofline.hardware.name,
        versions={"source": "vidur"},
        layers_s=lambda tokens: STEP_OVERHEAD_S + embedding.at(tokens) + model.layers * layer.at(tokens),
        head_s=None,
        attention=attention,
        reduce_s=reduce_s,
        reduce_algorithm="nccl",
    )


def _of_tp(path: Path, tp: int) -> list[Row]:
    """The rows of one tensor parallelism."""
    rows = list(read_rows(path))
    chosen = [row for row in rows if row.count("num_tensor_parallel_workers") == tp]
    if not chosen:
        there = sorted({row.count("num_tensor_parallel_workers") for row in rows})
        raise ImportProfileError(f"{path}: nothing with num_tensor_parallel_workers={tp}; it has {there}")
    return chosen


def _attention(row: Row) -> Attention:
    kernel = "attn_prefill" if row.text("is_prefill").lower() in ("true", "1") else "attn_decode"
    seconds = _median_s(row, kernel)
    seconds += sum(_median_s(row, part) for part in _AROUND_ATTENTION if row.has(f"time_stats.{part}.median"))
    batch, cached = row.count("batch_size"), row.count("kv_cache_size")
    if kernel == "attn_prefill":
        return Attention(batch, row.count("prefill_chunk_size"), cached, 0, 0, 0, seconds)
    # The new token's own key and value are read beside those in the cache.
    return Attention(0, 0, 0, batch, cached + 1, cached + 1, seconds)


def _median_s(row: Row, kernel: str) -> float:
    return row.number(f"time_stats.{kernel}.median") * _MS

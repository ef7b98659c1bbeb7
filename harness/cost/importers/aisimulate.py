"""Kernel tables of AISimulate (once AIConfigurator), Parquet files anywhere under a system's directory.

They are ``gemm_perf``, ``context_attention_perf``, ``generation_attention_perf``, ``custom_allreduce_perf`` and
``nccl_perf``. Latencies are milliseconds; messages are counted in elements of 16 bits. No table holds what moves
activations only.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.complaint import first_line
from harness.cost.importers.layerwise import Attention, ImportProfileError, Layerwise, Table
from harness.cost.shape import StepShape

if TYPE_CHECKING:
    from harness.cost.roofline import Roofline

_MS = 1e-3
_ELEMENT_BYTES = 2
_DTYPES = {"bf16": ("bfloat16", "float16"), "fp8": ("fp8", "fp8_block"), "fp32": ("float32",)}
_KV_DTYPES = {"bf16": ("bfloat16", "float16"), "fp8": ("fp8",), "fp32": ("float32",)}


def recognises(directory: Path) -> bool:
    """Whether there are such tables in a directory or below."""
    return next(directory.rglob("gemm_perf.parquet"), None) is not None


def read(directory: Path, roofline: Roofline) -> Layerwise:
    """The kernels of a system.

    Raises:
        ImportProfileError: A table, column or value is missing, or nothing in them fits the model.
    """
    model, tp = roofline.model, roofline.tp
    if model.moe_layers:
        raise ImportProfileError(f"{directory}: experts are not imported from AISimulate: {model.name} has some")
    path, products = _table(directory, "gemm_perf", ("gemm_dtype", "m", "n", "k", "latency"))
    products = [row for row in products if row["gemm_dtype"] in _DTYPES[roofline.weight_dtype]]
    if not products:
        raise ImportProfileError(f"{path}: no row with gemm_dtype of {', '.join(_DTYPES[roofline.weight_dtype])}")
    sizes: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for row in products:
        sizes.setdefault((int(row["n"]), int(row["k"])), []).append((row["m"], row["latency"] * _MS))
    measured = {size: Table(points) for size, points in sizes.items()}

    query, kv = model.query_size // tp, model.kv_heads_per_gpu(tp) * model.head_dim
    width, hidden = model.intermediate_size // tp, model.hidden_size
    layer = [(query + 2 * kv, hidden), (hidden, query), (2 * width, hidden), (hidden, width)]
    products_of_layer = [_nearest(measured, size) for size in layer]
    head, head_scale = _nearest(measured, (-(-model.vocab_size // tp), hidden))

    # A measured product has its own beginning and end in it.
    products_fixed_s = len(layer) * model.layers * roofline.hardware.kernel_s

    def layers_s(rows: int) -> float:
        others_s = roofline.step_s(StepShape(decode_rows=rows)) - roofline.linear_s(rows, 0) - products_fixed_s
        others_s -= roofline.all_reduce_s(rows)
        return others_s + model.layers * sum(scale * table.at(rows) for table, scale in products_of_layer)

    def head_s(rows: int) -> float:
        sampling_s = roofline.step_s(StepShape(sampled=rows)) - roofline.step_s(StepShape())
        return sampling_s - (roofline.linear_s(0, rows) - roofline.linear_s(0, 0)) + head_scale * head.at(rows)

    reduce_s, algorithm = _all_reduce(directory, tp) if tp > 1 else (None, "none")
    first = products[0]
    return Layerwise(
        device=str(first.get("device", roofline.hardware.name)),
        versions={"source": "aisimulate", str(first.get("framework", "engine")): str(first.get("version", "unknown"))},
        layers_s=layers_s,
        head_s=head_s,
        attention=[*_attention(directory, roofline, "context"), *_attention(directory, roofline, "generation")],
        reduce_s=reduce_s,
        reduce_algorithm=algorithm,
    )


def _table(directory: Path, name: str, columns: Sequence[str]) -> tuple[Path, list[dict[str, Any]]]:
    """The rows of the newest table of a name, vLLM's where there are several engines'.

    Raises:
        ImportProfileError: There is none, or it lacks a column.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = sorted(directory.rglob(f"{name}.parquet"), key=_newest)
    if not found:
        raise ImportProfileError(f"{directory}: no {name}.parquet in it or below")
    path = found[-1]
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise ImportProfileError(f"{path}: cannot be read as Parquet ({first_line(error)})") from None
    for column in columns:
        if column not in table.column_names:
            raise ImportProfileError(f"{path}: no column {column}; it has {', '.join(table.column_names)}")
    rows: list[dict[str, Any]] = table.to_pylist()
    for position, row in enumerate(rows):
        for column in columns:
            value = row[column]
            if not column.endswith("dtype") and (not isinstance(value, int | float) or not value >= 0):
                raise ImportProfileError(f"{path}: row {position}: {column}={value!r} is no number of 0 or more")
    return path, rows


def _newest(path: Path) -> tuple[bool, list[int], str]:
    """Sorts vLLM's tables last, and later versions after earlier ones."""
    digits = "".join(letter if letter.isdigit() else " " for letter in path.parent.name).split()
    return "vllm" in path.parts, [int(digit) for digit in digits], str(path)


def _nearest(measured: Mapping[tuple[int, int], Table], size: tuple[int, int]) -> tuple[Table, float]:
    """The measured product nearest to a size, and what its seconds are to be multiplied by: the ratio of the work."""
    best = min(measured, key=lambda known: (abs(log(known[0] / size[0])) + abs(log(known[1] / size[1])), known))
    return measured[best], size[0] * size[1] / (best[0] * best[1])


def _attention(directory: Path, roofline: Roofline, kind: str) -> list[Attention]:
    """Attention of prompts (``context``) or of decodes (``generation``) with the heads of one device."""
    heads = (roofline.model.heads // roofline.tp, roofline.model.kv_heads_per_gpu(roofline.tp), roofline.model.head_dim)
    needed = ("num_heads", "num_key_value_heads", "head_dim")
    path, rows = _table(
        directory, f"{kind}_attention_perf", ("batch_size", "isl", "step", *needed, "kv_cache_dtype", "latency")
    )
    there = {tuple(int(row[column]) for column in needed) for row in rows}
    points = []
    for row in rows:
        own = tuple(int(row[column]) for column in needed)
        own = (own[0], own[1] or own[0], own[2])  # no key-value heads: as many as heads
        if own != heads or row["kv_cache_dtype"] not in _KV_DTYPES[roofline.kv_dtype] or row.get("window_size"):
            continue
        batch, tokens, before = int(row["batch_size"]), int(row["isl"]), int(row["step"])
        seconds = row["latency"] * _MS
        if kind == "context":
            points.append(Attention(batch, tokens, before, 0, 0, 0, seconds))
        else:
            points.append(Attention(0, 0, 0, batch, tokens + before, tokens + before, seconds))
    if not points:
        raise ImportProfileError(
            f"{path}: nothing with heads, KV heads, head_dim = {heads} and KV in {roofline.kv_dtype}; it has "
            f"{sorted(there)[:8]}"
        )
    return points


def _all_reduce(directory: Path, tp: int) -> tuple[Table | None, str]:
    """One all-reduce by bytes: of the engine's own kernel, else NCCL's, else nobody's."""
    for name, algorithm in (("custom_allreduce_perf", "custom"), ("nccl_perf", "nccl")):
        if next(directory.rglob(f"{name}.parquet"), None) is None:
            continue
        _, rows = _table(directory, name, ("num_gpus", "message_size", "latency"))
        points = [
            (row["message_size"] * _ELEMENT_BYTES, row["latency"] * _MS)
            for row in rows
            if int(row["num_gpus"]) == tp and row.get("op_name") in (None, "all_reduce")
        ]
        if points:
            return Table(points), algorithm
    return None, "none"

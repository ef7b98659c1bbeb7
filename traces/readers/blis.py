"""BLIS's trace v2 (inference-sim/inference-sim): a CSV of requests and a YAML header beside it.

Columns used, found by name: ``session_id`` and ``round_index``, ``prefix_group`` and ``prefix_length``
(tokens that the group shares, before ``input_tokens``), ``input_tokens``, ``output_tokens``,
``server_input_tokens`` (what a real server counted), ``deadline_us`` (absolute; 0: none), ``vllm_priority``
(smaller is more urgent), ``arrival_time_us``, ``think_time_us``. Where the header says
``session_context_growth: accumulate``, a round's ``input_tokens`` are what it adds to the session.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from traces.errors import TraceError
from traces.readers.table import columns
from traces.readers.turns import accumulate, follow, leave_out_failed
from traces.schema import NONE, Blocks, Trace, fresh_ids, offsets

if TYPE_CHECKING:
    from traces.readers.source import Source
    from traces.readers.table import Kind
    from traces.schema import BoolArray, FloatArray

_REQUIRED: dict[str, Kind] = {
    "session_id": "label",
    "round_index": "int",
    "prefix_group": "label",
    "input_tokens": "int",
    "output_tokens": "int",
    "arrival_time_us": "int",
}
_OPTIONAL: dict[str, Kind] = {
    "client_id": "label",
    "prefix_length": "int",
    "deadline_us": "int",
    "vllm_priority": "int",
    "server_input_tokens": "int",
    "think_time_us": "text",
}


def recognise(source: Source) -> bool:
    """Whether the header line is this format's."""
    return {"request_id", "round_index", "prefix_group", "arrival_time_us"} <= set(source.csv_fields())


def read(source: Source) -> Trace:
    """Read a BLIS trace v2 from its CSV; the YAML header is looked for beside it, under the same name.

    A session's round waits for the one before; it then thinks for ``think_time_us`` where recorded.

    Args:
        source: The CSV.

    Raises:
        TraceError: A line is wrong.
    """
    names = source.csv_fields()
    table = columns(source, {**_REQUIRED, **{name: kind for name, kind in _OPTIONAL.items() if name in names}})
    n = len(table["input_tokens"])
    for name, kind in _OPTIONAL.items():
        table.setdefault(name, np.full(n, "", dtype=object) if kind == "text" else np.zeros(n, dtype=np.int64))
    for name in (
        "round_index",
        "input_tokens",
        "output_tokens",
        "arrival_time_us",
        "prefix_length",
        "deadline_us",
    ):
        source.require(table[name] >= 0, name, table[name], "0 or more", preamble=1)
    session, output, arrival_us = table["session_id"], table["output_tokens"], table["arrival_time_us"]
    turn, parent = follow(session, rank=table["round_index"])
    adds = (parent != NONE) & _accumulates(source)
    blocks = _blocks(table, with_prefix=~adds)
    output_id = fresh_ids(blocks.id, n)
    if adds.any():
        blocks = accumulate(blocks, adds, turn, parent, output_id, output)
    has_prompt = np.diff(blocks.start) > 0
    source.require(has_prompt, "input_tokens", table["input_tokens"], "at least 1 token", preamble=1)
    think = np.where(parent == NONE, 0.0, _think_s(source, table["think_time_us"]))
    deadline_us = table["deadline_us"]
    in_time = (deadline_us == 0) | (deadline_us > arrival_us)
    source.require(in_time, "deadline_us", deadline_us, "0 or later than arrival_time_us", preamble=1)
    trace = Trace.build(
        source.name,
        arrival_s=arrival_us / 1e6,
        prompt_tokens=np.add.reduceat(blocks.tokens, blocks.start[:-1]),
        output_tokens=np.maximum(output, 1),
        blocks=blocks,
        session_id=session,
        turn=turn,
        parent_id=parent,
        think_s=think,
        client_id=table["client_id"],
        priority=-table["vllm_priority"],
        deadline_s=np.where(deadline_us == 0, np.nan, (deadline_us - arrival_us) / 1e6),
        output_id=output_id,
    )
    return leave_out_failed(trace, output)


def _accumulates(source: Source) -> bool:
    """What the header beside the CSV says of sessions."""
    import yaml  # type: ignore[import-untyped]

    for path in (source.path.with_suffix(".yaml"), source.path.with_name("header.yaml")):
        if path.exists():
            try:
                header = yaml.safe_load(path.read_text(encoding="utf-8"))
                growth = header.get("session_context_growth", "")
            except (yaml.YAMLError, UnicodeDecodeError, AttributeError) as error:
                raise TraceError(f"{path}: bad header: {error}") from None
            if growth not in ("", "accumulate"):
                raise TraceError(f"{path}: session_context_growth is {growth!r}, expected accumulate or nothing")
            return bool(growth)
    return False


def _blocks(table: dict[str, np.ndarray[Any, Any]], with_prefix: BoolArray) -> Blocks:
    """A block for the group's prefix, where there is one, and a block for the rest."""
    group, length = table["prefix_group"], table["prefix_length"]
    n = len(group)
    shared = np.zeros(int(group.max(initial=NONE)) + 1, dtype=np.int64)
    stated = np.flatnonzero((group != NONE) & (length > 0))[::-1]
    shared[group[stated]] = length[stated]  # reversed: the group's first line decides, as in BLIS
    grouped = group != NONE
    prefix = np.where(grouped & with_prefix, shared[group] if len(shared) else 0, 0)
    counted = table["server_input_tokens"]
    own = np.where((counted > 0) & ~grouped, counted, table["input_tokens"])
    tokens = np.stack((prefix, own), axis=1)
    ids = np.stack((group, len(shared) + np.arange(n)), axis=1)
    real = tokens > 0
    return Blocks(start=offsets(real.sum(axis=1)), id=ids[real], tokens=tokens[real])


def _think_s(source: Source, cells: np.ndarray[Any, Any]) -> FloatArray:
    """Think times in seconds from cells that may be empty."""
    if not (cells != "").any():
        return np.zeros(len(cells))
    try:
        think: FloatArray = np.where(cells == "", "0", cells).astype(np.float64) / 1e6
    except ValueError:
        raise TraceError(f"{source.path}: think_time_us holds what is not a number") from None
    source.require(np.isfinite(think) & (think >= 0), "think_time_us", cells, "0 us or more", preamble=1)
    return think

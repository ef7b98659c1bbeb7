"""Our own schema as JSONL, CSV or Parquet: the columns of :class:`traces.schema.Trace`, nothing lost.

Required are ``arrival_s`` (s), ``prompt_tokens`` and ``output_tokens``; every other column may be left out
and then says that nothing is known, and so does an empty ``parent_id``, ``session_id`` or ``client_id``.
Blocks are ``hash_ids`` where all but a prompt's last have ``block_size`` tokens, or else ``block_ids`` with
``block_tokens``; in CSV such a cell holds numbers with spaces between. What belongs to no request (the name,
the block size, the notes) is a first JSON line, a first CSV line after ``# servetwin_trace``, or Parquet
metadata, and may be left out.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import msgspec
import numpy as np

from traces.errors import TraceError
from traces.readers.jsonl import records
from traces.readers.table import columns
from traces.schema import FLOAT_COLUMNS, NONE, REQUEST_COLUMNS, Blocks, Trace, offsets

if TYPE_CHECKING:
    from collections.abc import Callable

    from traces.readers.source import Source
    from traces.readers.table import Kind
    from traces.schema import BoolArray, IntArray

    Table = dict[str, np.ndarray[Any, Any]]

MARK = "servetwin_trace"
CSV_MARK = f"# {MARK} "
REQUIRED = ("arrival_s", "prompt_tokens", "output_tokens")
OPTIONAL_IDS = ("parent_id", "session_id", "client_id")  # -1, or nothing, where there is none
LISTS = ("hash_ids", "block_ids", "block_tokens")
PARQUET_MAGIC = b"PAR1"


class Runs(NamedTuple):
    """A list in every row: how long each is, shape (n,), and all of them one after the other."""

    counts: IntArray
    values: IntArray


class Header(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """What belongs to no request.

    Attributes:
        servetwin_trace: Version of this layout.
        name: What the trace is called, empty where the file's name is it.
        block_size: Nominal tokens of a block, 0 where lengths vary freely.
        has_blocks: Whether the source names prefixes.
        notes: What was done to the source.
    """

    servetwin_trace: int = 1
    name: str = ""
    block_size: Annotated[int, msgspec.Meta(ge=0, le=1 << 31)] = 0
    has_blocks: bool | None = None
    notes: tuple[str, ...] = ()


def recognise(source: Source) -> bool:
    """Whether the file is in this format."""
    return (
        source.head.startswith(PARQUET_MAGIC)
        or source.first_line.startswith(CSV_MARK)
        or MARK in source.json_fields
        or set(REQUIRED) <= source.json_fields
        or set(REQUIRED) <= set(source.csv_fields())
    )


def read(source: Source) -> Trace:
    """Read a trace in our own schema.

    Args:
        source: The file.

    Raises:
        TraceError: A line is wrong.
    """
    if source.head.startswith(PARQUET_MAGIC):
        return _read_parquet(source)
    if source.first_line.startswith("{"):
        return _read_jsonl(source)
    return _read_csv(source)


def _read_jsonl(source: Source) -> Trace:
    skip = int(MARK in source.json_fields)
    header = _header(source, source.first_line) if skip else Header()
    _, first = next(records(source, dict, skip), (0, None))
    if first is None:
        raise TraceError(f"{source.path} is empty: it has a header and no requests")
    _require_known(source, tuple(first))
    kinds = [(name, list[int] if name in LISTS else _json_type(name)) for name in first]
    row_type = msgspec.defstruct("Row", kinds, forbid_unknown_fields=True)
    values: dict[str, array[Any]] = {name: array("d" if name in FLOAT_COLUMNS else "q") for name in first}
    counts = {name: array("q") for name in first if name in LISTS}
    for line_number, record in records(source, row_type, skip):
        for name, column in values.items():
            value = getattr(record, name)
            try:
                if name in counts:
                    column.extend(value)
                    counts[name].append(len(value))
                else:
                    column.append((NONE if name in OPTIONAL_IDS else np.nan) if value is None else value)
            except OverflowError:
                raise source.error(line_number, f"{name} does not fit 64 bits") from None
    table = {name: _array(column) for name, column in values.items()}
    lists = {name: Runs(_array(count), table.pop(name)) for name, count in counts.items()}
    return _assemble(source, header, table, lists, lambda row, said: source.error_at(row, said, skip))


def _read_csv(source: Source) -> Trace:
    skip = int(source.first_line.startswith(CSV_MARK))
    header = _header(source, source.first_line.removeprefix(CSV_MARK)) if skip else Header()
    names = source.csv_fields(skip)
    _require_known(source, names)
    kinds: dict[str, Kind] = {name: _csv_kind(name) for name in names}
    table = columns(source, kinds, skip=skip)

    def fail(row: int, said: str) -> TraceError:
        return source.error_at(row, said, preamble=skip + 1)

    lists = {}
    for name in set(names) & set(LISTS):
        values, counts = array("q"), array("q")
        for row, cell in enumerate(table.pop(name)):
            before = len(values)
            try:
                values.extend(map(int, cell.split()))
            except (ValueError, OverflowError):
                raise fail(row, f"{name} is {cell!r}, expected 64-bit integers with spaces between") from None
            counts.append(len(values) - before)
        lists[name] = Runs(_array(counts), _array(values))
    return _assemble(source, header, table, lists, fail)


def _read_parquet(source: Source) -> Trace:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with source.stream() as file:
            arrow = parquet.read_table(file)
        names = tuple(arrow.column_names)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise TraceError(f"{source.path}: bad Parquet: {error}") from None
    _require_known(source, names)
    metadata = arrow.schema.metadata or {}
    header = _header(source, metadata[MARK.encode()].decode()) if MARK.encode() in metadata else Header()
    table: Table = {}
    lists = {}
    for name in arrow.column_names:
        kind = pa.float64() if name in FLOAT_COLUMNS else pa.int64()
        column = arrow[name].combine_chunks()
        if column.null_count and name in OPTIONAL_IDS:
            column = column.fill_null(NONE)
        if column.null_count and name != "deadline_s":
            raise TraceError(f"{source.path}: column {name} has nulls, expected a value in every row")
        try:
            column = column.cast(pa.list_(kind) if name in LISTS else kind)
        except pa.ArrowException as error:
            raise TraceError(f"{source.path}: column {name}: {error}") from None
        if name in LISTS:
            counts = column.value_lengths().to_numpy(zero_copy_only=False)
            lists[name] = Runs(counts.astype(np.int64), column.flatten().to_numpy(zero_copy_only=False))
        else:
            table[name] = column.to_numpy(zero_copy_only=False)
    return _assemble(source, header, table, lists, lambda row, said: TraceError(f"{source.path}, row {row}: {said}"))


def _assemble(
    source: Source,
    header: Header,
    table: Table,
    lists: dict[str, Runs],
    fail: Callable[[int, str], TraceError],
) -> Trace:
    """The trace, after what can be said with the line it is on has been checked."""

    def require(good: BoolArray, name: str, expected: str) -> None:
        if not good.all():
            row = int(good.argmin())
            raise fail(row, f"{name} is {table[name][row]}, expected {expected}")

    require(np.isfinite(table["arrival_s"]) & (table["arrival_s"] >= 0), "arrival_s", "0 s or more")
    for name in ("prompt_tokens", "output_tokens"):
        require(table[name] >= 1, name, "at least 1 token")
    blocks = None
    prompt = table["prompt_tokens"]
    if "hash_ids" in lists:
        size = header.block_size
        if size < 1:
            raise TraceError(f"{source.path}: block_size is {size}, expected how many tokens each of hash_ids names")
        counts, ids = lists["hash_ids"]
        needed = -(-prompt // size)
        if not (counts == needed).all():
            row = int((counts == needed).argmin())
            said = f"hash_ids has {counts[row]} ids, expected {needed[row]}"
            raise fail(row, f"{said} for {prompt[row]} tokens in blocks of {size}")
        blocks = Blocks.of_size(prompt, counts, ids, size)
    elif "block_ids" in lists and "block_tokens" in lists:
        counts, ids = lists["block_ids"]
        lengths, tokens = lists["block_tokens"]
        if not (counts == lengths).all():
            row = int((counts == lengths).argmin())
            raise fail(row, f"block_tokens has {lengths[row]} lengths for {counts[row]} block_ids")
        blocks = Blocks(start=offsets(counts), id=ids, tokens=tokens)
    elif lists:
        raise TraceError(f"{source.path}: block_ids and block_tokens belong together: one is missing")
    trace = Trace.build(
        header.name or source.name, blocks=blocks, block_size=header.block_size, notes=header.notes, **table
    )
    return trace if header.has_blocks is None else trace.with_columns(has_blocks=header.has_blocks)


def _header(source: Source, text: str) -> Header:
    try:
        header = msgspec.json.decode(text, type=Header)
    except msgspec.MsgspecError as error:
        raise TraceError(f"{source.path}: bad header: {error}") from None
    if header.servetwin_trace != 1:
        said = f"{MARK} is {header.servetwin_trace}, expected 1"
        raise TraceError(f"{source.path}: {said}: a newer ServeTwin wrote this file")
    return header


def _require_known(source: Source, names: tuple[str, ...]) -> None:
    for name in REQUIRED:
        if name not in names:
            raise TraceError(f"{source.path}: column {name} is missing, expected {', '.join(REQUIRED)}")
    known = (*REQUEST_COLUMNS, *LISTS)
    for name in names:
        if name not in known:
            raise TraceError(f"{source.path}: column {name} is unknown, expected {', '.join(known)}")


def _json_type(name: str) -> Any:
    if name in OPTIONAL_IDS:
        return int | None
    if name not in FLOAT_COLUMNS:
        return int
    return float | None if name == "deadline_s" else float


def _csv_kind(name: str) -> Kind:
    if name in LISTS:
        return "text"
    if name in OPTIONAL_IDS:
        return "id"
    return "float" if name in FLOAT_COLUMNS else "int"


def _array(values: array[Any]) -> np.ndarray[Any, Any]:
    return np.frombuffer(values, dtype=np.dtype(values.typecode)) if values else np.empty(0, dtype=np.int64)

"""Write a trace: our own schema as JSONL, CSV or Parquet (nothing lost), or Mooncake's JSONL."""

from __future__ import annotations

import gzip
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from traces.errors import TraceError
from traces.readers.mooncake import WHOLE_CONTEXT
from traces.readers.native import CSV_MARK, MARK, Header
from traces.schema import NONE, REQUEST_COLUMNS, Trace, is_regular

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import pyarrow as pa

CHUNK_ROWS = 4096


def write(trace: Trace, path: str | Path, format: str | None = None) -> None:  # noqa: A002
    """Write a trace to a file, gzip where its name ends in ``.gz``.

    Our own schema leaves out the columns that hold nothing but what :meth:`traces.schema.Trace.build` fills
    in. Mooncake's has whole milliseconds, and a session's turns each wait for the one before.

    Args:
        trace: What to write.
        path: Where to. The file appears when it is complete.
        format: ``jsonl``, ``csv`` and ``parquet`` are our own schema, ``mooncake`` is Mooncake's JSONL;
            without, what the name ends in.

    Raises:
        TraceError: The format is unknown, cannot hold this trace, or the file cannot be written.
    """
    target = Path(path)
    name = format or target.name.removesuffix(".gz").rpartition(".")[2]
    if name not in WRITERS:
        raise TraceError(f"{target}: trace format {name!r} cannot be written, expected {', '.join(WRITERS)}")
    chunks = WRITERS[name](trace)
    partial = target.with_name(f".{target.name}.partial")
    try:
        with partial.open("wb") as file:
            if target.name.endswith(".gz"):
                with gzip.GzipFile(filename="", fileobj=file, mode="wb", mtime=0) as packed:
                    packed.writelines(chunks)
            else:
                file.writelines(chunks)
        partial.replace(target)
    except OSError as error:
        raise TraceError(f"{target}: cannot be written: {error}") from None
    finally:
        partial.unlink(missing_ok=True)


def _jsonl(trace: Trace) -> Iterator[bytes]:
    header, table = _native(trace)
    yield msgspec.json.encode({MARK: header.servetwin_trace, **msgspec.to_builtins(header)}) + b"\n"
    yield from _json_lines(table)


def _csv(trace: Trace) -> Iterator[bytes]:
    import pyarrow as pa
    from pyarrow import compute, csv

    header, table = _native(trace)
    for index, field in enumerate(table.schema):
        if pa.types.is_list(field.type):
            text = compute.binary_join(table[field.name].cast(pa.list_(pa.string())), " ")
            table = table.set_column(index, field.name, text)
    yield CSV_MARK.encode() + msgspec.json.encode(header) + b"\n"
    buffer = io.BytesIO()
    csv.write_csv(table, buffer, csv.WriteOptions(quoting_style="none", quoting_header="none"))
    yield buffer.getvalue()


def _parquet(trace: Trace) -> Iterator[bytes]:
    from pyarrow import parquet

    header, table = _native(trace)
    buffer = io.BytesIO()
    metadata = {MARK: msgspec.json.encode(header)}
    parquet.write_table(table.replace_schema_metadata(metadata), buffer, compression="zstd")
    yield buffer.getvalue()


def _mooncake(trace: Trace) -> Iterator[bytes]:
    import pyarrow as pa

    columns: dict[str, Any] = {
        "timestamp": np.round(trace.arrival_s * 1000.0).astype(np.int64),
        "input_length": trace.prompt_tokens,
        "output_length": trace.output_tokens,
    }
    if trace.has_blocks:
        if not is_regular(trace):
            raise TraceError(
                f"trace {trace.name!r}: blocks that vary in length cannot be Mooncake's hash_ids: write jsonl"
            )
        columns["hash_ids"] = _lists(trace.block_start, trace.block_id)
    if (trace.session_id != NONE).any():
        single = trace.session_id == NONE
        columns["session_id"] = pa.array(trace.session_id, mask=single)
        columns["delay"] = pa.array(trace.think_s * 1000.0, mask=single | (trace.think_s == 0.0))
        columns["context_mode"] = pa.array([None if lone else WHOLE_CONTEXT for lone in single])
    yield from _json_lines(pa.table(columns))


WRITERS: dict[str, Callable[[Trace], Iterator[bytes]]] = {
    "jsonl": _jsonl,
    "csv": _csv,
    "parquet": _parquet,
    "mooncake": _mooncake,
}


def _native(trace: Trace) -> tuple[Header, pa.Table]:
    """The columns that say something, and the header for what belongs to no request."""
    import pyarrow as pa

    given = {name: getattr(trace, name) for name in ("arrival_s", "prompt_tokens", "output_tokens")}
    plain = Trace.build(trace.name, **given)
    own = not (np.array_equal(trace.block_id, plain.block_id) and len(trace.block_id) == len(trace))
    with_blocks = trace.has_blocks or own
    if with_blocks:
        plain = Trace.build(trace.name, **given, blocks=trace.blocks)
    columns: dict[str, Any] = {
        name: getattr(trace, name)
        for name in REQUEST_COLUMNS
        if name in given or not np.array_equal(getattr(trace, name), getattr(plain, name), equal_nan=True)
    }
    if with_blocks and is_regular(trace):
        columns["hash_ids"] = _lists(trace.block_start, trace.block_id)
    elif with_blocks:
        columns["block_ids"] = _lists(trace.block_start, trace.block_id)
        columns["block_tokens"] = _lists(trace.block_start, trace.block_tokens)
    header = Header(
        name=trace.name,
        block_size=trace.block_size,
        has_blocks=trace.has_blocks if trace.has_blocks != with_blocks else None,
        notes=trace.notes,
    )
    return header, pa.table(columns)


def _lists(start: Any, values: Any) -> pa.ListArray:
    import pyarrow as pa

    return pa.ListArray.from_arrays(start.astype(np.int32), values)


def _json_lines(table: pa.Table) -> Iterator[bytes]:
    encoder = msgspec.json.Encoder()
    for batch in table.to_batches(max_chunksize=CHUNK_ROWS):
        rows = batch.to_pylist()
        yield encoder.encode_lines([{k: v for k, v in row.items() if v is not None} for row in rows])

"""Read the columns of a CSV file as NumPy arrays."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any, Literal

from traces.errors import TraceError
from traces.readers.source import UNREADABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import numpy as np

    from traces.readers.source import Source

Kind = Literal["int", "id", "float", "text", "label", "time"]

_EXPECTED = {
    "int": "an integer of 64 bits",
    "id": "an integer of 64 bits, or -1 or nothing where there is none",
    "float": "a number",
    "text": "text",
    "label": "text",
    "time": "a time like 2023-11-16 18:17:03.9799600",
}


def columns(
    source: Source, kinds: Mapping[str, Kind], header: tuple[str, ...] | None = None, skip: int = 0
) -> dict[str, np.ndarray[Any, Any]]:
    """Some columns of a CSV file.

    Args:
        source: The file.
        kinds: Column names with what they hold; a time becomes datetime64[ns], text an
            object array, a label an id from 0 in order of first appearance; ids and labels are -1 where the cell is
            empty.
        header: The names of all columns where the file has no header line.
        skip: Lines to leave out before the header.

    Raises:
        TraceError: A column is missing, a row has another number of cells, a cell is not of its kind, or
            there are no rows.
    """
    import pyarrow as pa
    from pyarrow import csv as pacsv

    names = header or source.csv_fields(skip)
    for name in kinds:
        if name not in names:
            raise TraceError(f"{source.path}: column {name} is missing, expected {', '.join(kinds)}")
    types = {
        "int": pa.int64(),
        "id": pa.string(),
        "float": pa.float64(),
        "text": pa.string(),
        "label": pa.string(),
        "time": _time_type(source),
    }
    try:
        with source.stream() as file:
            table = pacsv.read_csv(
                file,
                read_options=pacsv.ReadOptions(column_names=header, skip_rows=skip, use_threads=False),
                convert_options=pacsv.ConvertOptions(
                    column_types={name: types[kind] for name, kind in kinds.items()},
                    include_columns=list(kinds),
                    null_values=[],
                ),
            )
        table = _with_ids(table, [name for name, kind in kinds.items() if kind == "id"])
    except UNREADABLE as error:
        raise TraceError(f"{source.path}: cannot be read to its end: {error}") from None
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
        raise _located(source, kinds, header, skip) or TraceError(f"{source.path}: {error}") from None
    if table.num_rows == 0:
        raise _empty(source)
    return {name: _labels(table[name]) if kind == "label" else table[name].to_numpy() for name, kind in kinds.items()}


def _with_ids(table: Any, names: list[str]) -> Any:
    """The table with these columns as integers: -1 where a cell is empty."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for name in names:
        words = pc.utf8_trim_whitespace(table[name])
        filled = pc.if_else(pc.equal(words, ""), "-1", words)
        table = table.set_column(table.schema.get_field_index(name), name, filled.cast(pa.int64()))
    return table


def _labels(column: Any) -> np.ndarray[Any, Any]:
    import numpy as np

    encoded = column.combine_chunks().dictionary_encode()
    codes: np.ndarray[Any, Any] = encoded.indices.to_numpy().astype(np.int64)
    names = encoded.dictionary.to_pylist()
    if "" not in names:
        return codes
    blank = names.index("")
    return np.where(codes == blank, -1, codes - (codes > blank))


def _time_type(source: Source) -> Any:
    import pyarrow as pa

    second = source.head.decode("utf-8", errors="replace").split("\n", 2)[1:2]
    zoned = bool(second) and ("+" in second[0] or "Z" in second[0])
    return pa.timestamp("ns", tz="UTC") if zoned else pa.timestamp("ns")


def _located(source: Source, kinds: Mapping[str, Kind], header: tuple[str, ...] | None, skip: int) -> TraceError | None:
    """Read again, slowly, to name the line and the field that Arrow stumbled over."""
    import pyarrow as pa

    names = header
    rows = 0
    converters: dict[str, Callable[[str], Any]] = {
        "int": _int64,
        "id": lambda cell: _int64(cell.strip() or "-1"),
        "float": float,
        "time": lambda cell: pa.scalar(cell).cast(_time_type(source)),
        "text": str,
        "label": str,
    }
    for number, cells in _rows(source, skip):
        if names is None:
            names = tuple(cell.strip() for cell in cells)
            continue
        rows += 1
        if len(cells) != len(names):
            return source.error(number, f"{len(cells)} cells, expected {len(names)}: {','.join(names)}")
        for name, cell in zip(names, cells, strict=True):
            kind = kinds.get(name, "text")
            try:
                converters[kind](cell)
            except (ValueError, OverflowError, pa.ArrowException):
                return source.error(number, f"{name} is {cell!r}, expected {_EXPECTED[kind]}")
    return None if rows else _empty(source)


def _empty(source: Source) -> TraceError:
    return TraceError(f"{source.path} is empty: it has a header and no requests")


def _rows(source: Source, skip: int) -> Iterator[tuple[int, list[str]]]:
    with io.TextIOWrapper(source.stream(), "utf-8", errors="replace", newline="") as text:  # type: ignore[type-var]
        for _ in range(skip):
            next(text, None)
        reader = csv.reader(text)
        for cells in reader:
            if cells:
                yield reader.line_num + skip, cells


def _int64(cell: str) -> int:
    value = int(cell)
    if not -(1 << 63) <= value < 1 << 63:
        raise OverflowError(cell)
    return value

"""The files of a run directory: written from columns, read back as columns or as DataFrames.

Tables are Parquet with zstd. The same columns give the same bytes: no table holds a time of writing.
"""

from __future__ import annotations

import json
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.complaint import first_line
from harness.metrics.schema import (
    LIST_KINDS,
    NULL,
    REQUEST_COLUMNS,
    STEP_COLUMNS,
    TOKEN_COLUMNS,
    Decisions,
    Kind,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    import pandas as pd
    import pyarrow as pa

    from harness.metrics.schema import Array, Column, Columns

REQUESTS, STEPS, TOKENS = "requests.parquet", "steps.parquet", "tokens.parquet"
CONFIG, SUMMARY, ENVIRONMENT = "config.yaml", "summary.json", "environment.json"
ERROR = "error.txt"  # of a run that failed: one line that says why, then details


class RunError(ValueError):
    """A directory that is not a run, or cannot become one; the message names it and the way out."""


def write_requests(run_dir: Path, requests: Columns) -> None:
    """Write ``requests.parquet``.

    Args:
        run_dir: The run directory, which exists.
        requests: As :func:`harness.metrics.schema.complete_requests` gives them.

    Raises:
        RunError: The file cannot be written.
    """
    _write_table(run_dir / REQUESTS, {column.name: _to_arrow(column, requests) for column in REQUEST_COLUMNS})


def write_steps(run_dir: Path, steps: Columns, decisions: Decisions | None) -> None:
    """Write ``steps.parquet``.

    Args:
        run_dir: The run directory, which exists.
        steps: As :func:`harness.metrics.schema.complete_steps` gives them.
        decisions: What each step ran; None leaves these columns null.

    Raises:
        RunError: The file cannot be written.
    """
    arrays = {column.name: _to_arrow(column, steps) for column in STEP_COLUMNS if column.kind not in LIST_KINDS}
    arrays |= _decision_arrays(decisions, len(steps["step"]))
    _write_table(run_dir / STEPS, {column.name: arrays[column.name] for column in STEP_COLUMNS})


def write_tokens(run_dir: Path, tokens: Columns) -> None:
    """Write ``tokens.parquet``.

    Args:
        run_dir: The run directory, which exists.
        tokens: As :func:`harness.metrics.schema.complete_tokens` gives them.

    Raises:
        RunError: The file cannot be written.
    """
    _write_table(run_dir / TOKENS, {column.name: _to_arrow(column, tokens) for column in TOKEN_COLUMNS})


def write_summary(run_dir: Path, summary: Mapping[str, Any]) -> None:
    """Write ``summary.json``.

    Raises:
        RunError: The file cannot be written.
        ValueError: A number in it is NaN or infinite: an unknown is None.
    """
    text = json.dumps(summary, indent=2, allow_nan=False)
    with _replacing(run_dir / SUMMARY) as path:
        path.write_text(text + "\n", encoding="utf-8")


def load_run(path: Path | str) -> Run:
    """A run directory, its tables read when first asked for.

    Raises:
        RunError: It does not exist, lacks a file that every run has, or one of them cannot be read.
    """
    path = Path(path)
    if not path.is_dir():
        raise RunError(f"{path}: no such directory; give a run directory that `harness run` wrote")
    missing = [name for name in (CONFIG, SUMMARY, REQUESTS) if not (path / name).is_file()]
    if missing:
        raise RunError(
            f"{path} is not a run directory: it has no {', no '.join(missing)}; give one that `harness run` wrote"
        )
    return Run(path, config=_read_config(path / CONFIG), summary=read_summary(path / SUMMARY))


def why_no_run(path: Path) -> str | None:
    """Why a directory that is there holds no run with results; None where it does, or is not there."""
    if not path.is_dir() or (path / SUMMARY).is_file():
        return None
    if (path / ERROR).is_file():
        return "it failed: " + (path / ERROR).read_text(encoding="utf-8", errors="replace").partition("\n")[0]
    return "the run did not end" if (path / CONFIG).is_file() else "no run directory"


def read_summary(path: Path) -> dict[str, Any]:
    """The ``summary.json`` of a run.

    Raises:
        RunError: It is none.
    """
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"{path}: not JSON ({first_line(error)})") from error
    if not isinstance(summary, dict) or "metrics" not in summary:
        raise RunError(f"{path}: not the summary of a run (it has no 'metrics')")
    return summary


def at(tree: Any, path: Iterable[str]) -> Any:
    """What a summary or a configuration has at the end of a path of keys; None where a key is missing."""
    for key in path:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree


@dataclass(frozen=True)
class Run:
    """What one run left behind.

    Attributes:
        path: Its directory.
        config: Its resolved configuration.
        summary: Its ``summary.json``.
    """

    path: Path
    config: dict[str, Any]
    summary: dict[str, Any]

    @property
    def complete(self) -> bool:
        """Whether it came to its end."""
        return bool(self.summary.get("complete"))

    @cached_property
    def requests(self) -> pd.DataFrame:
        """The request table, one row a request; nulls are pandas' own."""
        return _frame(self._table(REQUESTS))

    @cached_property
    def steps(self) -> pd.DataFrame:
        """The step table, one row a step.

        Raises:
            RunError: The run has none, or it cannot be read.
        """
        return _frame(self._table(STEPS))

    @cached_property
    def tokens(self) -> pd.DataFrame:
        """The token table, one row a token.

        Raises:
            RunError: The run has none, or it cannot be read.
        """
        if not (self.path / TOKENS).is_file():
            raise RunError(f"{self.path / TOKENS}: the run kept no times of tokens; run it with token_times=true")
        return _frame(self._table(TOKENS))

    @cached_property
    def columns(self) -> dict[str, Array]:
        """The request table as :func:`harness.metrics.schema.complete_requests` gave it.

        Raises:
            RunError: The file cannot be read, or another version of the schema wrote it.
        """
        table = self._table(REQUESTS)
        missing = [column.name for column in REQUEST_COLUMNS if column.name not in table.column_names]
        if missing:
            raise RunError(f"{self.path / REQUESTS}: it has no column {missing[0]!r}; run it again with this version")
        return {column.name: _to_numpy(column, table) for column in REQUEST_COLUMNS}

    def decisions(self) -> Decisions:
        """What each step ran.

        Raises:
            RunError: The run kept no steps, or not what they ran.
        """
        table = self._table(STEPS)
        lists = {}
        for name in ("prefill_ids", "prefill_counts", "joined_ids", "left_ids"):
            column = table[name].combine_chunks()
            if column.null_count:
                raise RunError(f"{self.path / STEPS}: it does not say what each step ran ({name} is null)")
            lists[name] = column
        return Decisions(
            prefill_offsets=_offsets(lists["prefill_ids"]),
            prefill_ids=lists["prefill_ids"].flatten().to_numpy(),
            prefill_counts=lists["prefill_counts"].flatten().to_numpy(),
            joined_offsets=_offsets(lists["joined_ids"]),
            joined_ids=lists["joined_ids"].flatten().to_numpy(),
            left_offsets=_offsets(lists["left_ids"]),
            left_ids=lists["left_ids"].flatten().to_numpy(),
        )

    def _table(self, name: str) -> pa.Table:
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self.path / name
        if not path.is_file():
            raise RunError(f"{path}: the run has no such table")
        try:
            return pq.read_table(path)
        except (pa.ArrowException, OSError) as error:
            raise RunError(f"{path}: not a Parquet file that can be read ({first_line(error)})") from error


def _to_arrow(column: Column, columns: Columns) -> pa.Array:
    import pyarrow as pa

    values = columns[column.name]
    if column.kind is Kind.TEXT:
        return _strings(values.tolist())
    if column.kind is Kind.FLOAT:
        return _primitive(values, pa.float64(), np.isnan(values))
    null = values == NULL if column.nullable else None
    if column.kind is Kind.FLAG:
        return _primitive(_bits(values == 1), pa.bool_(), null, len(values))
    if column.kind is Kind.CODE:
        return pa.DictionaryArray.from_arrays(_primitive(values, pa.int8(), null), _strings(column.choices))
    return _primitive(values, pa.from_numpy_dtype(values.dtype), null)


def _primitive(values: Array, kind: pa.DataType, null: Array | None = None, rows: int | None = None) -> pa.Array:
    """An Arrow array over NumPy's memory; ``pa.array`` would import pandas, half a second of a short run."""
    import pyarrow as pa

    valid = pa.py_buffer(_bits(~null)) if null is not None and null.any() else None
    data = pa.py_buffer(np.ascontiguousarray(values))
    return pa.Array.from_buffers(kind, len(values) if rows is None else rows, [valid, data])


def _strings(words: Sequence[str | None]) -> pa.Array:
    import pyarrow as pa

    encoded = [(word or "").encode(errors="replace") for word in words]
    offsets = np.zeros(len(words) + 1, dtype=np.int32)
    np.cumsum([len(word) for word in encoded], out=offsets[1:])
    valid = pa.py_buffer(_bits(np.array([word is not None for word in words], dtype=bool)))
    return pa.StringArray.from_buffers(len(words), pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded)), valid)


def _bits(flags: Array) -> Array:
    """Flags as Arrow packs them."""
    packed: Array = np.packbits(flags, bitorder="little")
    return packed


def _to_numpy(column: Column, table: pa.Table) -> Array:
    import pyarrow as pa

    array = table[column.name].combine_chunks()
    if column.kind is Kind.CODE:
        words = [word.as_py() for word in array.dictionary]
        codes = np.array([column.choices.index(word) for word in words] + [NULL], dtype=np.int8)
        result: Array = codes[array.indices.fill_null(len(words)).to_numpy()]
        return result
    if column.kind is Kind.FLAG:
        array = array.cast(pa.int8())
    if column.kind not in (Kind.FLOAT, Kind.TEXT):
        array = array.fill_null(NULL)
    values: Array = array.to_numpy(zero_copy_only=False)
    return values


def _decision_arrays(decisions: Decisions | None, rows: int) -> dict[str, pa.Array]:
    import pyarrow as pa

    kinds = {Kind.LIST_INT64: pa.int64(), Kind.LIST_INT32: pa.int32()}
    if decisions is None:
        return {
            column.name: pa.nulls(rows, pa.list_(kinds[column.kind]))
            for column in STEP_COLUMNS
            if column.kind in LIST_KINDS
        }
    arrays = {}
    for column in STEP_COLUMNS:
        if column.kind in LIST_KINDS:
            offsets, values = decisions.lists()[column.name]
            if len(offsets) != rows + 1:
                raise RunError(f"steps: {column.name!r} has {len(offsets)} offsets for {rows} steps, not one more")
            kind = kinds[column.kind]
            arrays[column.name] = pa.ListArray.from_arrays(
                _primitive(offsets.astype(np.int32), pa.int32()),
                _primitive(values.astype(kind.to_pandas_dtype(), copy=False), kind),
            )
    return arrays


def _offsets(lists: pa.ListArray) -> Array:
    offsets = lists.offsets.to_numpy().astype(np.int64)
    from_zero: Array = offsets - offsets[0]
    return from_zero


def _frame(table: pa.Table) -> pd.DataFrame:
    import pandas as pd
    import pyarrow as pa

    nullable = {pa.int64(): pd.Int64Dtype(), pa.int32(): pd.Int32Dtype(), pa.bool_(): pd.BooleanDtype()}
    frame: pd.DataFrame = table.to_pandas(types_mapper=nullable.get)
    return frame


def _write_table(path: Path, arrays: Mapping[str, pa.Array]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _replacing(path) as partial:
        pq.write_table(pa.table(dict(arrays)), partial, compression="zstd")


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A file beside ``path`` that takes its place when it is whole."""
    partial = path.with_name(path.name + ".partial")
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror or error}); choose hydra.run.dir=DIR") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def _read_config(path: Path) -> dict[str, Any]:
    from omegaconf import OmegaConf

    try:
        config = OmegaConf.to_container(OmegaConf.load(path))
    except Exception as error:  # YAML's and OmegaConf's errors share no base
        raise RunError(f"{path}: not a configuration ({first_line(error)})") from error
    if not isinstance(config, dict):
        raise RunError(f"{path}: not a configuration (its top level is no mapping)")
    return {str(key): value for key, value in config.items()}

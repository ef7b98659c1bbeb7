"""CSV files of numbers, read with errors that name file, line and column."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from harness.cost.importers.layerwise import ImportProfileError


class Row:
    """A line of a table.

    Args:
        path: The file.
        line: Its number in it, from 1.
        values: Texts by column.
    """

    def __init__(self, path: Path, line: int, values: Mapping[str, str | None]) -> None:
        self._path = path
        self._line = line
        self._values = values

    def text(self, column: str) -> str:
        """What stands in a column."""
        value = self._values.get(column)
        if value is None:
            raise ImportProfileError(f"{self._path}: no column {column}; it has {', '.join(self._values)}")
        return value

    def number(self, column: str) -> float:
        """A number, 0 or more."""
        text = self.text(column)
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value >= 0):
            raise ImportProfileError(f"{self._path}: line {self._line}: {column}={text!r} is no number of 0 or more")
        return value

    def count(self, column: str) -> int:
        """A whole number, 0 or more."""
        value = self.number(column)
        if value != int(value):
            raise ImportProfileError(f"{self._path}: line {self._line}: {column}={value} is no whole number")
        return int(value)

    def has(self, column: str) -> bool:
        """Whether something stands in a column."""
        return bool(self._values.get(column))


def read_rows(path: Path) -> Iterator[Row]:
    """The lines of a CSV file with a header.

    Raises:
        ImportProfileError: It cannot be read.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            for line, values in enumerate(csv.DictReader(file), start=2):
                yield Row(path, line, values)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ImportProfileError(f"{path}: cannot be read as CSV ({error})") from None

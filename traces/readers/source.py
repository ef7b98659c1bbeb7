"""A trace file as the readers see it: its bytes, its first line, and how to point at a line of it."""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, cast

from traces.errors import TraceError

if TYPE_CHECKING:
    import io
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np

    from traces.schema import BoolArray

HEAD_BYTES = 1 << 16
UNREADABLE = (OSError, EOFError, zlib.error)
_GZIP_MAGIC = b"\x1f\x8b"
_LFS_MAGIC = b"version https://git-lfs.github.com/spec/"


@dataclass(frozen=True)
class Source:
    """A file, or a directory of files, that holds a trace.

    Attributes:
        path: Where it lies.
        head: Its first bytes, decompressed; none of a directory.
        compressed: Whether it is gzip.
    """

    path: Path
    head: bytes
    compressed: bool

    @classmethod
    def open(cls, path: Path) -> Source:
        """Look at a file or a directory.

        Raises:
            TraceError: There is none, it is empty, or it is a Git LFS pointer.
        """
        if path.is_dir():
            return cls(path=path, head=b"", compressed=False)
        try:
            with path.open("rb") as file:
                compressed = file.read(2) == _GZIP_MAGIC
            with _open(path, compressed) as file:
                head = file.read(HEAD_BYTES)
        except FileNotFoundError:
            raise TraceError(f"{path}: there is no such file") from None
        except UNREADABLE as error:
            raise TraceError(f"{path}: cannot be read: {error}") from None
        if head.startswith(_LFS_MAGIC):
            raise TraceError(
                f"{path} is a Git LFS pointer, not the data: "
                "fetch the data itself (git lfs pull, or harness trace fetch)"
            )
        if not head.strip():
            raise TraceError(f"{path} is empty: it holds no requests")
        return cls(path=path, head=head, compressed=compressed)

    @property
    def is_folder(self) -> bool:
        """Whether this is a directory."""
        return self.path.is_dir()

    def members(self, ending: str) -> list[Source]:
        """The directory's files whose names end so, also before ``.gz``, by name.

        Raises:
            TraceError: One cannot be read, is empty, or is a Git LFS pointer.
        """
        names = (ending, f"{ending}.gz")
        return [Source.open(path) for path in sorted(self.path.iterdir()) if path.name.endswith(names)]

    @property
    def name(self) -> str:
        """The file's name without what says how it is stored."""
        name = self.path.name.removesuffix(".gz")
        return name.rsplit(".", 1)[0] or name

    @cached_property
    def first_line(self) -> str:
        """The first line that is not blank, without its end."""
        text = self.head.decode("utf-8", errors="replace").removeprefix("\ufeff")
        return text.lstrip().split("\n", 1)[0].rstrip("\r")

    @cached_property
    def json_fields(self) -> frozenset[str]:
        """The names of the first line's fields, none where it is not a JSON object."""
        try:
            first = json.loads(self.first_line)
        except ValueError:
            return frozenset()
        return frozenset(first) if isinstance(first, dict) else frozenset()

    def csv_fields(self, skip: int = 0) -> tuple[str, ...]:
        """The cells of the first line that is not blank, after ``skip`` others."""
        text = self.head.decode("utf-8", errors="replace")  # split at \n only: a note may hold any other
        lines = (line.rstrip("\r") for line in text.split("\n") if line.strip())
        return tuple(cell.strip("\ufeff ") for cell in next(csv.reader(islice(lines, skip, None)), []))

    def stream(self) -> io.BufferedIOBase:
        """The decompressed bytes, from the start."""
        return _open(self.path, self.compressed)

    def content(self) -> bytes:
        """All decompressed bytes.

        Raises:
            TraceError: The file cannot be read to its end.
        """
        try:
            with self.stream() as file:
                return file.read()
        except UNREADABLE as error:
            raise TraceError(f"{self.path}: cannot be read to its end: {error}") from None

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """Every line that is not blank, with its number from 1.

        Raises:
            TraceError: The file cannot be read to its end.
        """
        try:
            with self.stream() as file:
                for number, line in enumerate(file, 1):
                    if not line.isspace():
                        yield number, line
        except UNREADABLE as error:
            raise TraceError(f"{self.path}: cannot be read to its end: {error}") from None

    def error(self, line: int, message: str) -> TraceError:
        """What is wrong with a line."""
        return TraceError(f"{self.path}, line {line}: {message}")

    def error_at(self, row: int, message: str, preamble: int = 0) -> TraceError:
        """What is wrong with a row: the file is read again to find its line.

        Args:
            row: Of the table, from 0.
            message: What is wrong.
            preamble: Lines that are not blank before the first row.
        """
        lines = (number for number, _ in self.lines())
        return self.error(next(islice(lines, row + preamble, None)), message)

    def require(
        self, good: BoolArray, field: str, values: np.ndarray[Any, Any], expected: str, preamble: int = 0
    ) -> None:
        """Check a column.

        Args:
            good: Which rows hold, shape (n,).
            field: What the file calls the column.
            values: The values as the file has them, shape (n,).
            expected: What a value must be.
            preamble: Lines that are not blank before the first row.

        Raises:
            TraceError: Names the line of the first row that does not hold, the field and the value.
        """
        if not good.all():
            row = int(good.argmin())
            raise self.error_at(row, f"{field} is {values[row]}, expected {expected}", preamble)


def _open(path: Path, compressed: bool) -> io.BufferedIOBase:
    return cast("io.BufferedIOBase", gzip.open(path)) if compressed else path.open("rb")

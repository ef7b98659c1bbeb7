"""Decode a JSONL file line by line into typed records."""

from __future__ import annotations

import re
from array import array
from typing import TYPE_CHECKING, TypeVar

import msgspec
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from traces.errors import TraceError
    from traces.readers.source import Source
    from traces.schema import IntArray

Record = TypeVar("Record")

_AT = re.compile(r" - at `\$\.?(?P<field>[^`]*)`$")


def records(source: Source, kind: type[Record], skip: int = 0) -> Iterator[tuple[int, Record]]:
    """Each line as a record, with its number.

    Args:
        source: The file.
        kind: A ``msgspec.Struct``: fields it does not name are ignored.
        skip: Lines that are not blank to leave out at the start.

    Raises:
        TraceError: A line is not JSON, or a field is missing or of another type.
    """
    decoder = msgspec.json.Decoder(kind)
    for count, (number, line) in enumerate(source.lines()):
        if count < skip:
            continue
        try:
            yield number, decoder.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise decode_error(source, number, line, error) from None


def decode_error(source: Source, number: int, line: bytes, error: Exception) -> TraceError:
    """Say what msgspec found in our words."""
    message = str(error)
    if isinstance(error, msgspec.ValidationError):
        place = _AT.search(message)
        said = _AT.sub("", message).replace("`", "")
        said = said[0].lower() + said[1:]
        return source.error(number, f"field {place['field']}: {said}" if place else said)
    for word in (b"NaN", b"Infinity"):
        if word in line:
            return source.error(number, f"bad JSON: {word.decode()} is not a JSON number, expected a finite one")
    return source.error(number, f"bad JSON: {message}, expected one JSON object a line")


class IdColumn:
    """Block ids as they come, 8 bytes each.

    Ids are 64-bit words: one of the upper half of the unsigned range is kept as the signed word of the same
    bits.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._words = array("q")

    def __len__(self) -> int:
        return len(self._words)

    def extend(self, line: int, field: str, ids: list[int]) -> None:
        """Append the ids of one line.

        Raises:
            TraceError: One needs more than 64 bits.
        """
        try:
            self.append(ids)
        except OverflowError as error:
            raise self._source.error(line, f"{field} has {error}, expected an id of 64 bits") from None

    def append(self, ids: list[int]) -> None:
        """Append ids.

        Raises:
            OverflowError: One needs more than 64 bits: that one.
        """
        length = len(self._words)
        try:
            self._words.extend(ids)
        except OverflowError:
            del self._words[length:]
            for word in ids:
                if not -(1 << 63) <= word < 1 << 64:
                    raise OverflowError(word) from None
                self._words.append(word - (1 << 64) if word >= 1 << 63 else word)

    def highest(self, first: int) -> int:
        """The highest id from position ``first`` on, -1 where there is none."""
        return max(self._words[first:], default=-1)

    def array(self) -> IntArray:
        """The ids, shape (blocks,)."""
        return np.frombuffer(self._words, dtype=np.int64) if self._words else np.empty(0, dtype=np.int64)

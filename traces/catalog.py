"""The public traces by name: where they are from, where they lie, and fetching them."""

from __future__ import annotations

import difflib
import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from traces.errors import TraceError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from traces.download import Progress

SEARCH_VARIABLE = "SERVETWIN_TRACES"


class CatalogFile(msgspec.Struct, frozen=True):
    """One file of a trace.

    Attributes:
        path: Where it lies below a directory of the search path.
        url: Where it is from, at a fixed commit or release.
        bytes: Its size, None where not known.
        sha256: Of its content, empty where only the git blob is known.
        git_blob_sha1: Git's name of its content.
    """

    path: str
    url: str
    bytes: int | None = None
    sha256: str = ""
    git_blob_sha1: str = ""


class Entry(msgspec.Struct, frozen=True):
    """One trace of the catalogue.

    Attributes:
        title: What it is, in a line.
        format: A name of :data:`traces.readers.FORMATS`.
        licence: SPDX identifier.
        repository: Where it is published, ``owner/name`` on GitHub.
        path: What to read, below a directory of the search path: a file or a directory.
        files: All that belongs to it.
    """

    title: str
    format: str
    licence: str
    repository: str
    path: str
    files: tuple[CatalogFile, ...]

    @property
    def bytes(self) -> int | None:
        """Size of all files, None where one is not known."""
        sizes = [file.bytes for file in self.files]
        return None if None in sizes else sum(size or 0 for size in sizes)


@cache
def catalog() -> dict[str, Entry]:
    """All traces by name."""
    text = Path(__file__).with_name("catalog.json").read_bytes()
    return msgspec.json.decode(text, type=dict[str, Entry])


def lookup(name: str) -> Entry:
    """The entry of a name.

    Raises:
        TraceError: There is none; names those that are close.
    """
    entries = catalog()
    if name not in entries:
        close = difflib.get_close_matches(name, entries, n=3) or sorted(entries)
        raise TraceError(f"trace {name!r} is not in the catalogue, expected one such as {', '.join(close)}")
    return entries[name]


def cache_dir() -> Path:
    """Where fetched traces lie."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "servetwin" / "traces"


def search_path() -> tuple[Path, ...]:
    """Where traces are looked for: the directories of ``$SERVETWIN_TRACES``, then the cache."""
    named = os.environ.get(SEARCH_VARIABLE, "").split(os.pathsep)
    return (*(Path(part).expanduser() for part in named if part), cache_dir())


def find(name: str, directories: Iterable[Path] | None = None) -> Path | None:
    """What to read of a trace, from the first directory that has all of its files, or None.

    Args:
        name: Of the catalogue.
        directories: Where to look; without, :func:`search_path`.

    Raises:
        TraceError: The name is not in the catalogue.
    """
    entry = lookup(name)
    for directory in search_path() if directories is None else directories:
        if all((directory / file.path).is_file() for file in entry.files):
            return directory / entry.path
    return None


def fetch(name: str, destination: Path | None = None, progress: Progress | None = None) -> Path:
    """Download a trace, or what is missing of it, and verify it.

    Args:
        name: Of the catalogue.
        destination: Directory to lay the files under; without, the cache.
        progress: Called with the file's path, the bytes there are, and the bytes there will be or None.

    Returns:
        What to read: a file or a directory.

    Raises:
        TraceError: The name is unknown, or a file cannot be downloaded or is not what the catalogue says.
    """
    from traces.download import download  # urllib is not needed to read what is there

    entry = lookup(name)
    directory = cache_dir() if destination is None else destination
    for file in entry.files:
        download(file, directory / file.path, progress)
    return directory / entry.path

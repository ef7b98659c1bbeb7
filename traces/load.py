"""A trace by the name of a file, of a bundled trace, or of the catalogue."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from traces import catalog
from traces.errors import TraceError
from traces.readers import read

if TYPE_CHECKING:
    from traces.schema import Trace


def bundled() -> dict[str, Path]:
    """The traces that come with the package, by name."""
    return {path.stem: path for path in sorted(Path(__file__).with_name("bundled").glob("*.jsonl"))}


def locate(source: str) -> Path:
    """The file or directory that a name means.

    Args:
        source: A path, or the name of a trace: bundled, or fetched from the catalogue.

    Raises:
        TraceError: It is none of these, or not fetched yet.
    """
    path = Path(source).expanduser()
    if path.exists():
        return path
    if source in bundled():
        return bundled()[source]
    if source not in catalog.catalog():
        raise TraceError(
            f"trace {source!r} is no file and no known name: `python -m harness trace list` shows the names"
        )
    found = catalog.find(source)
    if found is None:
        raise TraceError(f"trace {source!r} is not here yet: `python -m harness trace fetch {source}` gets it")
    return found


def load(source: str, **options: Any) -> Trace:
    """Read the trace that a name means.

    Args:
        source: As for :func:`locate`.
        **options: Of the format's reader, see :func:`traces.readers.read`.

    Raises:
        TraceError: There is none, or it cannot be read.
    """
    return read(locate(source), **options)

"""What a person reads on a terminal: tables as wide as it, or wide enough in a pipe; the unknown; paths."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

PIPE_WIDTH = 160  # columns
UNKNOWN = "-"  # what a person reads where a figure is not known


def shortest(path: Path) -> Path:
    """A path as seen from the working directory, where it is below that."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def table_console() -> Console:
    """A console for tables on standard output."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)

"""How tables are printed: as wide as the terminal, or wide enough in a pipe, and what stands for the unknown."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

PIPE_WIDTH = 160  # columns
UNKNOWN = "-"  # what a person reads where a figure is not known


def table_console() -> Console:
    """A console for tables on standard output."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)

"""What a person reads on a terminal: tables as wide as it, or wide enough in a pipe; figures, the unknown; paths."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

PIPE_WIDTH = 160  # columns
UNKNOWN = "-"  # what a person reads where a figure is not known


def figure(value: float | None, form: str = ".2f", scale: float = 1) -> str:
    """A number times a scale, in a format such as ``,.0f``; None, NaN and infinities are unknown."""
    return UNKNOWN if value is None or not math.isfinite(value) else format(value * scale, form)


def number(value: float | None, sign: str = "") -> str:
    """A number of any size, with thousands set apart, and with decimals while it is small; ``sign`` as in formats."""
    return figure(value, f"{sign},.{2 if value is None or abs(value) < 1000 else 0}f")


def shortest(path: Path) -> Path:
    """A path as seen from the working directory, where it is below that."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def table_console() -> Console:
    """A console for tables on standard output."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)

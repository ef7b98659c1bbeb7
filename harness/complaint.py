"""What went wrong, in one line: on standard error, or of what a library says over several."""

from __future__ import annotations

import sys


def complain(speaker: str, why: str) -> None:
    """Print ``why`` on standard error, after who says so, such as ``harness run``."""
    print(f"{speaker}: {' '.join(why.split())}", file=sys.stderr)  # noqa: T201


def first_line(error: BaseException) -> str:
    """Of an error's message; empty where it has none."""
    return str(error).strip().partition("\n")[0]

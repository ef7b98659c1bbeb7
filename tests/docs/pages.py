"""Parts of a page that are made by code, between ``<!-- made: NAME -->`` and ``<!-- end -->``."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def markdown_files() -> list[Path]:
    """Every page of the project."""
    apart = {"node_modules", "runs", "build", "dist"}
    return sorted(
        file
        for file in ROOT.rglob("*.md")
        if not any(part.startswith(".") or part in apart for part in file.relative_to(ROOT).parts)
    )


def made(page: str) -> dict[str, str]:
    """The parts of a page that are made, by name."""
    return {found[1]: found[2].strip("\n") for found in re.finditer(_PART, page)}


def put(page: str, name: str, text: str) -> str:
    """The page with another text in place of a part.

    Raises:
        ValueError: The page has no such part.
    """
    if name not in made(page):
        raise ValueError(f"the page has no place for it: <!-- made: {name} --> and, some lines on, <!-- end -->")
    return re.sub(
        _PART, lambda part: f"<!-- made: {name} -->\n\n{text}\n\n<!-- end -->" if part[1] == name else part[0], page
    )


_PART = re.compile(r"<!-- made: ([\w.]+) -->\n(.*?)<!-- end -->", flags=re.DOTALL)


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    text = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return text.replace(" ", "-")

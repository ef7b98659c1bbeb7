"""The tables of docs/metrics.md, from the schema. Make them anew: ``python -m tests.docs.columns``."""

from __future__ import annotations

from harness.metrics.schema import REQUEST_COLUMNS, STEP_COLUMNS, TOKEN_COLUMNS, Column, Kind
from tests.docs.pages import ROOT, put

PAGE = ROOT / "docs" / "metrics.md"
TABLES = {"requests": REQUEST_COLUMNS, "steps": STEP_COLUMNS, "tokens": TOKEN_COLUMNS}


def table(columns: tuple[Column, ...]) -> str:
    """A row for each column: its name, type and meaning."""
    lines = ["| column | type | what it holds |", "|---|---|---|"]
    for column in columns:
        kind = column.kind.value
        if column.kind is Kind.CODE:
            kind = "one of " + ", ".join(f"`{choice}`" for choice in column.choices)
        null = ", or null" if column.nullable else ""
        derived = "; derived" if column.derived else ""
        lines.append(f"| `{column.name}` | {kind}{null} | {column.meaning}{derived} |")
    return "\n".join(lines)


if __name__ == "__main__":
    page = PAGE.read_text(encoding="utf-8")
    for name, columns in TABLES.items():
        page = put(page, name, table(columns))
    PAGE.write_text(page, encoding="utf-8")

"""Runs the studies of conf/experiment and writes their tables into docs/studies.md.

python -m tests.benchmarks.studies                  # all of them, a minute
python -m tests.benchmarks.studies page_size tp     # some
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from tests.docs.pages import ROOT, put

PAGE = ROOT / "docs" / "studies.md"


class Column(NamedTuple):
    """One column of a study's table: where its value is in ``summary.json``, and how it is written."""

    title: str
    path: tuple[str, ...]
    scale: float
    form: str


COLUMNS = (
    Column("output tok/s", ("throughput", "output_tokens_per_s"), 1, "{:,.0f}"),
    Column("TTFT p50 ms", ("metrics", "ttft_s", "p50"), 1e3, "{:,.0f}"),
    Column("TTFT p99 ms", ("metrics", "ttft_s", "p99"), 1e3, "{:,.0f}"),
    Column("TPOT p50 ms", ("metrics", "tpot_s", "p50"), 1e3, "{:.2f}"),
    Column("ITL p99 ms", ("metrics", "itl_s", "p99"), 1e3, "{:.1f}"),
    Column("E2E p50 s", ("metrics", "e2e_s", "p50"), 1, "{:.2f}"),
    Column("hit %", ("cache", "hit_ratio"), 100, "{:.1f}"),
    Column("preempted", ("cache", "preemptions"), 1, "{:,.0f}"),
    Column("SLO met %", ("goodput", "attainment"), 100, "{:.1f}"),
)


def studies() -> list[str]:
    """Names of the studies."""
    return sorted(file.stem for file in (ROOT / "conf" / "experiment").glob("*.yaml"))


def run(study: str) -> list[tuple[str, dict[str, Any]]]:
    """Run a study: what was set in each of its runs, and its summary."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["run", f"experiment={study}", f"hydra.sweep.dir={folder}"]
        subprocess.run([sys.executable, "-m", "harness", *words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        found = {str(file.parent.relative_to(folder)): file for file in Path(folder).rglob("summary.json")}
        rows = {name: json.loads(file.read_text()) for name, file in found.items()}
    in_order = sorted(rows, key=lambda name: int(name.partition("_")[0]))
    return [(name.partition("_")[2].replace(",", " "), rows[name]) for name in in_order]


def table(rows: list[tuple[str, dict[str, Any]]]) -> str:
    """Markdown; columns in which nothing happens are left out."""
    cells = {column.title: [_cell(summary, column) for _, summary in rows] for column in COLUMNS}
    shown = {title: values for title, values in cells.items() if set(values) - {"-", "0", "0.0"}}
    lines = [f"| run | {' | '.join(shown)} |", "|---|" + "---:|" * len(shown)]
    for index, (name, _) in enumerate(rows):
        lines.append(f"| `{name}` | {' | '.join(values[index] for values in shown.values())} |")
    return "\n".join(lines)


def _cell(summary: dict[str, Any], column: Column) -> str:
    value: Any = summary
    for key in column.path:
        value = value.get(key) if isinstance(value, dict) else None
    return "-" if value is None else column.form.format(value * column.scale)


if __name__ == "__main__":
    for name in sys.argv[1:] or studies():
        print(f"{name} ...", flush=True)
        PAGE.write_text(put(PAGE.read_text(), name, table(run(name))))

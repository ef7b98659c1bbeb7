"""One table at the end of ``harness run -m``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

_COLUMNS: tuple[tuple[str, tuple[str, ...], float, str], ...] = (
    ("req/s", ("throughput", "requests_per_s"), 1, "{:.2f}"),
    ("output tok/s", ("throughput", "output_tokens_per_s"), 1, "{:,.0f}"),
    ("TTFT p50 ms", ("metrics", "ttft_s", "p50"), 1e3, "{:,.0f}"),
    ("TTFT p99 ms", ("metrics", "ttft_s", "p99"), 1e3, "{:,.0f}"),
    ("TPOT p50 ms", ("metrics", "tpot_s", "p50"), 1e3, "{:.2f}"),
    ("E2E p50 s", ("metrics", "e2e_s", "p50"), 1, "{:.2f}"),
    ("hit ratio", ("cache", "hit_ratio"), 1, "{:.1%}"),
    ("preempted", ("cache", "preemptions"), 1, "{:,.0f}"),
)


class SweepTable(Callback):
    """A Hydra callback: when all jobs have ended, print what each was and what came of it."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the table."""
        del kwargs
        from rich.console import Console

        # The sweep's directory has a time stamp that was resolved when the sweep began.
        directory = Path(str(OmegaConf.select(config, "hydra.sweep.dir")))
        rows = [
            (run.name, json.loads((run / "summary.json").read_text()))
            for run in sorted(directory.glob("*"), key=_job_number)
            if (run / "summary.json").exists()
        ]
        console = Console(highlight=False, soft_wrap=not sys.stdout.isatty())
        if rows:
            console.print(_table(rows))
            console.print(f"Run directories: {directory}", markup=False)


def _table(rows: list[tuple[str, dict[str, Any]]]) -> Any:
    from rich.table import Table

    table = Table(title="sweep")
    table.add_column("run", no_wrap=True)
    for title, *_ in _COLUMNS:
        table.add_column(title, justify="right")
    for name, summary in rows:
        table.add_row(
            name.partition("_")[2].replace(",", " "),
            *(_cell(summary, path, scale, form) for _, path, scale, form in _COLUMNS),
        )
    return table


def _cell(summary: dict[str, Any], path: tuple[str, ...], scale: float, form: str) -> str:
    value: Any = summary
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return "-" if value is None else form.format(value * scale)


def _job_number(run: Path) -> tuple[int, str]:
    number = run.name.split("_", 1)[0]
    return (int(number) if number.isdigit() else 0, run.name)

"""A calibration from what others measured: a fit to the requests of any engine's run."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from harness.config import ConfigError, ExperimentConfig
from harness.cost.fit import FitError, FitResult, fit_observations
from harness.metrics.files import Run
from harness.metrics.importers.load import load_runs
from harness.validate.recording import Recording

if TYPE_CHECKING:
    from traces.schema import Trace


def fit_file(path: Path, config: ExperimentConfig, watch: Callable[[str], None]) -> FitResult:
    """Fit the roofline of a configuration to the requests of a run.

    Args:
        path: A run directory of ours, or another tool's file or directory with a row for each request.
        config: The server that they ran on, with ``cost=roofline``.
        watch: Told how far it is, in a line.

    Raises:
        ValueError: The file cannot be read, or has no requests to fit to.
    """
    runs = load_runs(path)
    run = next((run for run in runs if run.columns is not None), None)
    if run is None or run.columns is None:
        raise ConfigError(
            f"from={path}: it holds figures only, no row for each request; save the tool's detailed results"
        )
    # Of a run of ours the prompts are known, and so what they share.
    trace: Trace | None = Recording(run).workload.trace if isinstance(run, Run) else None
    return fit_observations(
        run.columns,
        config,
        lambda replays, error: watch(f"{replays} replays, mean error {error:.1%}"),
        trace,
    )


def fit_tables(found: FitResult) -> list[Table]:
    """What a fit found, for people."""
    parameters = Table(title="fitted parameters")
    for column in ("", "was", "is"):
        parameters.add_column(column, justify="right" if column else "left")
    for parameter in found.parameters:
        parameters.add_row(parameter.name, f"{parameter.start:.4g}", f"{parameter.value:.4g}")
    errors = Table(title="errors, %")
    for column in ("", "requests", "mean before", "mean after", "each before (MAPE)", "each after (MAPE)"):
        errors.add_column(column, justify="right" if column else "left")
    for before, after in zip(found.before, found.after, strict=True):
        errors.add_row(_name(after), f"{after.requests:,}", *_cells(before, after))
    return [parameters, errors]


def write_fit(found: FitResult, path: Path) -> None:
    """Write a fit as JSON: parameters, errors before and after, and the words that set the parameters."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(dataclasses.asdict(found) | {"overrides": found.overrides}, indent=2) + "\n")


def _name(error: FitError) -> str:
    return f"{error.metric.removesuffix('_s').upper()}, {'held out' if error.held_out else 'fitted to'}"


def _cells(before: FitError, after: FitError) -> list[str]:
    return [
        f"{before.of_mean * 100:+.1f}",
        f"{after.of_mean * 100:+.1f}",
        f"{before.mape * 100:.1f}",
        f"{after.mape * 100:.1f}",
    ]

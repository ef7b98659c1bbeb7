"""One cell of a sweep: run, and kept as a small run directory that is whole or not there.

A cell that has a ``summary.json`` has ended; one with an ``error.txt`` has failed. Both files take their place in one
step, so that a process may be killed at any time and nothing half written is ever taken for a result.
"""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from dataclasses import asdict, replace
from enum import Enum
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import yaml  # type: ignore[import-untyped]

from harness import experiment
from harness.config import ExperimentConfig, TraceConfig
from harness.errors import USER_ERRORS
from harness.interrupt import Interrupt
from harness.metrics.files import CONFIG, SUMMARY
from harness.metrics.slo import Slo
from harness.progress import Progress
from harness.record import RunRecord
from harness.report.sweep import ERROR
from traces.schema import Trace

TRACES_KEPT = 4  # a process keeps as many traces: where only their rate varies, one is all it needs


class Status(Enum):
    """How a cell stands."""

    OPEN = "open"
    DONE = "done"
    FAILED = "failed"


class CellTask(NamedTuple):
    """What a worker is asked.

    Attributes:
        directory: The cell's own.
        config: What to run.
        keep_tables: Keep tables of requests and steps, and the timeline, beside the summary.
    """

    directory: Path
    config: ExperimentConfig
    keep_tables: bool


def status_of(directory: Path) -> Status:
    """How the cell of a directory stands, judged by its files."""
    if (directory / SUMMARY).is_file():
        return Status.DONE
    return Status.FAILED if (directory / ERROR).is_file() else Status.OPEN


def run_cell(task: CellTask) -> Status:
    """Run a cell and keep what came of it, be it an error.

    Returns:
        DONE; FAILED, the reason is in ``error.txt``; OPEN where it was interrupted, and nothing is kept.
    """
    directory, config = task.directory, task.config
    directory.mkdir(parents=True, exist_ok=True)
    (directory / ERROR).unlink(missing_ok=True)
    try:
        (directory / CONFIG).write_text(config_yaml(config))
        slo = Slo(**config.slo)
        trace, record = replay(config)
        if record.failure is not None:
            return keep_error(directory, record.failure)
        if not record.complete:
            return Status.OPEN
        experiment.write(directory, record, slo, trace, tables=task.keep_tables)
    except USER_ERRORS as error:
        return keep_error(directory, str(error))
    except Exception as error:  # one cell's fault must not end the others
        return keep_error(directory, f"{type(error).__name__}: {error}", traceback.format_exc())
    return Status.DONE


def replay(config: ExperimentConfig) -> tuple[Trace, RunRecord]:
    """Replay the trace of a configuration until it or Ctrl-C ends it.

    Returns:
        The trace, which is read once by each process as long as only its rate changes, and the replay.

    Raises:
        ValueError: A knob is wrong.
    """
    at_own_rate = replace(config.trace, rate=None, rate_scale=None)
    trace = experiment.at_rate(_trace(json.dumps(asdict(at_own_rate), sort_keys=True)), config.trace)
    with Interrupt() as interrupt:
        record = experiment.replay(config, trace, _until(interrupt))
    return trace, record


def keep_error(directory: Path, message: str, details: str = "") -> Status:
    """Keep why a cell failed, in one line with details below it.

    Returns:
        FAILED.
    """
    directory.mkdir(parents=True, exist_ok=True)
    partial = directory / f"{ERROR}.partial"
    partial.write_text(f"{' '.join(message.split())}\n{details}")
    partial.replace(directory / ERROR)
    return Status.FAILED


def config_yaml(config: ExperimentConfig) -> str:
    """A configuration as ``harness run`` keeps it."""
    text: str = yaml.dump(asdict(config), Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), sort_keys=False)
    return text


@lru_cache(maxsize=TRACES_KEPT)
def _trace(config_json: str) -> Trace:
    return experiment.load_at_own_rate(TraceConfig(**json.loads(config_json)))


def _until(interrupt: Interrupt) -> Callable[[Progress], bool]:
    return lambda _: not interrupt.requested

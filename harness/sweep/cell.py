"""One cell of a sweep: run, and kept as a small run directory that is whole or not there.

A cell that has a ``summary.json`` has ended; one with an ``error.txt`` has failed. Both files take their place in one
step, so that a process may be killed at any time and nothing half written is ever taken for a result.
"""

from __future__ import annotations

import json
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from enum import Enum
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import yaml  # type: ignore[import-untyped]

from harness import experiment
from harness.config import ConfigError, ExperimentConfig, TraceConfig
from harness.errors import USER_ERRORS
from harness.faults import PolicyFault, in_one_line, located
from harness.interrupt import Interrupt
from harness.metrics.files import CONFIG, ERROR, SUMMARY, RunError
from harness.metrics.slo import Slo
from harness.progress import Progress
from harness.record import RunRecord
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

    Raises:
        ConfigError: Nothing can be written, so that no other cell could be kept either.
    """
    directory, config = task.directory, task.config
    with _writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
        (directory / ERROR).unlink(missing_ok=True)
        (directory / CONFIG).write_text(config_yaml(config))
    try:
        slo = Slo(**config.slo)
        trace, record = replay(config)
        if record.failure is not None:
            return keep_error(directory, in_one_line(record.failure, config.policy), record.failure)
        if not record.complete:
            return Status.OPEN
        with _writing(directory):
            experiment.write(directory, record, slo, trace, tables=task.keep_tables)
    except _NotWrittenError:
        raise
    except PolicyFault as fault:
        return keep_error(directory, str(fault), fault.details)
    except USER_ERRORS as error:
        return keep_error(directory, str(error))
    except Exception as error:  # one cell's fault must not end the others
        return keep_error(directory, located(error), traceback.format_exc())
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
    # A pool of which a worker has died ends the others by SIGTERM: one that went on would wait for the dead one's lock.
    with Interrupt([signal.SIGINT]) as interrupt:
        record = experiment.replay(config, trace, _until(interrupt))
    return trace, record


def keep_error(directory: Path, message: str, details: str = "") -> Status:
    """Keep why a cell failed, in one line with details below it.

    Returns:
        FAILED.

    Raises:
        ConfigError: It cannot be written.
    """
    with _writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
        experiment.keep_error(directory, message, details)
    return Status.FAILED


class _NotWrittenError(ConfigError):
    """The directory of a sweep cannot be written; the message says why."""


@contextmanager
def _writing(directory: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, RunError) as error:
        sweep, reason = directory.parent.parent, getattr(error, "strerror", None) or error
        raise _NotWrittenError(
            f"--out {sweep}: cannot be written ({reason}); make room or name another, what has ended is kept"
        ) from None


def config_yaml(config: ExperimentConfig) -> str:
    """A configuration as ``harness run`` keeps it."""
    text: str = yaml.dump(asdict(config), Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper), sort_keys=False)
    return text


@lru_cache(maxsize=TRACES_KEPT)
def _trace(config_json: str) -> Trace:
    return experiment.load_at_own_rate(TraceConfig(**json.loads(config_json)))


def _until(interrupt: Interrupt) -> Callable[[Progress], bool]:
    return lambda _: not interrupt.requested

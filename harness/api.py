"""What ``harness run`` does, as a function: for notebooks and scripts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from harness import experiment
from harness.compose import compose
from harness.metrics.files import Run, load_run
from harness.metrics.slo import Slo
from harness.sweep.cell import config_yaml, replay


def run(*overrides: str, into: Path | str) -> Run:
    """Replay a workload, and read what that leaves.

    Clients over HTTP (``backend=endpoint``, ``backend.client=http``) bring an event loop of their own, so they cannot
    run in a notebook's thread, which has one: there, start ``harness run`` as a process and load its directory.

    Args:
        *overrides: Those of ``harness run``, e.g. ``policy=vllm``, ``trace.head=100``.
        into: The run directory; files of an earlier run in it are replaced.

    Returns:
        The run, its tables as DataFrames; not complete if it was interrupted.

    Raises:
        ValueError: A knob is wrong, or the directory cannot be written.
        RuntimeError: The server failed on the way; what was measured before is in the directory.
    """
    directory = Path(into)
    config = replace(compose(list(overrides)), name=directory.name)
    experiment.prepare_directory(directory, config_yaml(config))
    trace, record = replay(config)
    experiment.write(directory, record, Slo(**config.slo), trace)
    if record.failure is not None:
        raise RuntimeError(f"{directory}: {record.failure}")
    return load_run(directory)

"""One experiment: a trace, a policy and a backend, and the run directory that they leave."""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import cache
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from harness.config import ConfigError, ExperimentConfig, TraceConfig
from harness.faults import explained, own_policies
from harness.generated import generated
from harness.metrics import files, schema, summary
from harness.metrics.slo import Slo, hold_to
from harness.progress import Progress
from harness.record import RunRecord
from harness.workload import Workload
from traces import transforms
from traces.errors import TraceError
from traces.load import load
from traces.schema import NONE, Trace

_BACKENDS = {name: f"harness.backends.{name}" for name in ("sim", "emulate", "runtime", "endpoint")}
_PACKAGES = ("servetwin", "numpy", "pandas", "pyarrow", "scipy", "simpy", "hydra-core", "torch", "transformers")


def load_trace(config: TraceConfig) -> Trace:
    """The trace that a configuration asks for, transformed as it says.

    Raises:
        ValueError: There is none, it cannot be read, or a knob is wrong.
    """
    return at_rate(load_at_own_rate(config), config)


def at_rate(trace: Trace, config: TraceConfig) -> Trace:
    """The last step of :func:`load_trace`: arrivals scaled as the configuration says.

    Raises:
        ValueError: A knob is wrong.
    """
    if config.rate is not None:
        with _said_of(config, "rate"):
            trace = transforms.at_rate(trace, config.rate)
    if config.rate_scale is not None:
        with _said_of(config, "rate_scale"):
            trace = transforms.scale_rate(trace, config.rate_scale)
    return trace


def load_at_own_rate(config: TraceConfig) -> Trace:
    """All steps of :func:`load_trace` but the last.

    Raises:
        ValueError: As there.
    """
    if config.generate and config.path is None:
        trace = generated(config.generate)
    else:
        options = {} if config.format is None else {"format": config.format}
        trace = load(config.path or config.name, **options)
        if (trace.think_s > 0).any() and not (trace.parent_id != NONE).any():
            trace = trace.noted("think_s without parent_id: no request waits for another, all come at their times")
    if config.start_s is not None or config.end_s is not None:
        with _said_of(config, "start_s", "end_s"):
            trace = transforms.window(trace, config.start_s or 0.0, config.end_s or float("inf"))
    if config.head is not None:
        with _said_of(config, "head"):
            trace = transforms.head(trace, config.head)
    if config.recover_sessions:
        trace = transforms.recover_sessions(trace)
    if config.sample is not None:
        with _said_of(config, "sample"):
            trace = transforms.sample(trace, config.sample, config.seed)
    if config.thin is not None:
        with _said_of(config, "thin"):
            trace = transforms.thin(trace, config.thin, config.seed)
    if config.time_scale is not None:
        with _said_of(config, "time_scale"):
            trace = transforms.scale_time(trace, config.time_scale)
    caps = (config.cap_prompt_tokens, config.cap_output_tokens, config.cap_total_tokens)
    if any(cap is not None for cap in caps):
        with _said_of(config, "cap_prompt_tokens", "cap_output_tokens", "cap_total_tokens"):
            trace = transforms.cap_lengths(trace, *caps)
    return trace


@contextmanager
def _said_of(config: TraceConfig, *knobs: str) -> Iterator[None]:
    """While entered, what is wrong with a trace is said of the knobs that asked for it."""
    try:
        yield
    except TraceError as error:
        values = {knob: getattr(config, knob) for knob in knobs}
        said = " ".join(f"trace.{knob}={value}" for knob, value in values.items() if value is not None)
        raise ConfigError(f"{said}: {error}") from None


def replay(config: ExperimentConfig, trace: Trace, progress: Callable[[Progress], bool]) -> RunRecord:
    """Replay a trace through the backend of the configuration.

    Args:
        config: What to run.
        trace: What to replay.
        progress: Told how far it is; says whether to go on.

    Raises:
        ValueError: A knob is wrong.
    """
    name = str(config.backend.get("name"))
    if name not in _BACKENDS:
        raise ConfigError(f"backend.name={name}: no such backend; choose from {', '.join(_BACKENDS)}")
    workload = Workload.of(trace, **asdict(config.workload))
    with explained(own_policies(config.policy)):
        record: RunRecord = import_module(_BACKENDS[name]).replay(config, workload, progress)
    return record


def prepare_directory(run_dir: Path, config_yaml: str) -> None:
    """Make a run directory and say in it what is run, before anything is.

    Raises:
        ConfigError: It cannot be written.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        for left in (files.SUMMARY, files.ERROR):  # of an earlier run, which would be taken for this one's
            (run_dir / left).unlink(missing_ok=True)
        (run_dir / files.CONFIG).write_text(config_yaml)
    except OSError as error:
        raise ConfigError(
            f"hydra.run.dir={run_dir}: cannot be written ({error.strerror}); name another, e.g. hydra.run.dir=/tmp/run"
        ) from None


def keep_error(run_dir: Path, message: str, details: str = "") -> None:
    """Write why a run failed into its directory: one line, with details below it.

    Raises:
        OSError: It cannot be written.
    """
    partial = run_dir / f"{files.ERROR}.partial"
    partial.write_text(f"{' '.join(message.split())}\n{details}")
    partial.replace(run_dir / files.ERROR)


def write(run_dir: Path, record: RunRecord, slo: Slo, trace: Trace, *, tables: bool = True) -> dict[str, Any]:
    """Write what a replay leaves into its run directory; its summary comes last, so that a run that has one is whole.

    Args:
        run_dir: The run directory, which exists.
        record: The replay.
        slo: What goodput holds the requests to.
        trace: What was replayed.
        tables: Also the tables, the timeline and the environment, which is in the summary too.

    Returns:
        The summary.
    """
    requests = hold_to(schema.complete_requests(record.requests), slo)
    steps = None if record.steps is None else schema.complete_steps(record.steps)
    environment = describe_environment()
    result = summary.summarize(
        requests, steps=steps, gaps=record.gaps, slo=slo, environment=environment, complete=record.complete
    )
    result["server"] = record.server
    result["notes"] = list(record.notes)
    result["trace"] = {"name": trace.name, "requests": len(trace), "notes": list(trace.notes)}
    if tables:
        from harness.report.timeline import write_timeline  # after the replay: nothing before it needs msgspec

        files.write_requests(run_dir, requests)
        if steps is not None:
            files.write_steps(run_dir, steps, record.decisions)
        if record.tokens is not None:
            files.write_tokens(run_dir, schema.complete_tokens(record.tokens))
        write_timeline(run_dir, requests, steps)
        (run_dir / files.ENVIRONMENT).write_text(json.dumps(environment, indent=2) + "\n")
    files.write_summary(run_dir, result)
    return result


@cache
def describe_environment() -> dict[str, Any]:
    """Versions, commit and hardware that a run was made with."""
    packages: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            packages[name] = None
    return {
        "python": platform.python_version(),
        "packages": packages,
        "commit": _commit(),
        "platform": platform.platform(),
        "machine": platform.machine(),
    }


def _commit() -> str | None:
    here = Path(__file__).resolve().parent
    if not (here.parent / ".git").exists():
        return None
    try:
        said = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return said.stdout.strip() or None

"""A validation: real runs and their twins held against each other, and what is left of it on disk."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path

import numpy as np

from harness import experiment
from harness.config import ConfigError
from harness.metrics.slo import Slo
from harness.validate.agreement import Error, errors
from harness.validate.recording import Recording, check_alike
from harness.validate.sources import (
    StageError,
    Steps,
    as_columns,
    recorded_steps,
    shared_steps,
    simulate_on,
    stages,
)


@dataclass(frozen=True, slots=True)
class Line:
    """One figure of the error table, over the repeated real runs.

    Attributes:
        metric: See :class:`harness.validate.agreement.Error`, and so the next.
        statistic: Over what.
        real: Of the real runs, the mean.
        twin: Of the twin.
        error: The twin's, the mean over the real runs.
        own_error: What one real run is off from another: the mean of the absolute errors over all pairs; NaN where
            there is one run only.
    """

    metric: str
    statistic: str
    real: float
    twin: float
    error: float
    own_error: float


@dataclass
class Finding:
    """One twin held against the real runs.

    Attributes:
        name: Of the twin.
        lines: Its errors.
        stages: The mean request's way through the first real run and the twin.
        parted: Where its decisions part from the first real run's, or ``nowhere``.
        shared_steps: Steps of the first real run before that,
        steps: of so many.
        speed: Seconds of the real run over seconds to make the twin's; NaN where that is not known.
    """

    name: str
    lines: list[Line]
    stages: list[StageError]
    parted: str
    shared_steps: int
    steps: int
    speed: float = float("nan")


@dataclass
class Validation:
    """What was found.

    Attributes:
        real: The real runs.
        twins: Their twins, by name.
        findings: One a twin.
        steps: The real run's steps against the cost model, or None where it does not tell its timing.
        on_recorded: Errors of the simulator's run on the recorded steps' seconds, or none.
        notes: What could not be found, and why.
    """

    real: list[Recording]
    twins: dict[str, Recording]
    findings: list[Finding] = field(default_factory=list)
    steps: Steps | None = None
    on_recorded: list[Error] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def validate(
    real: Iterable[Path], twins: dict[str, Path], took_s: dict[str, float], say: Callable[[str], None]
) -> Validation:
    """Hold twins against real runs.

    Args:
        real: Directories of the same workload's real runs, one or more.
        twins: Directories by name.
        took_s: Seconds that each twin took, where known.
        say: Told what is under way.

    Raises:
        ValueError: The runs are not of one server and one workload, or a directory cannot be read.
    """
    recordings = [Recording.load(path) for path in real]
    found = Validation(recordings, {name: Recording.load(path) for name, path in twins.items()})
    first = recordings[0]
    for other in [*recordings[1:], *found.twins.values()]:
        check_alike(first, other)
    real_s = first.duration_s
    own = _own_errors(recordings)
    for name, twin in found.twins.items():
        difference, shared = shared_steps(first.record, twin.record)
        found.findings.append(
            Finding(
                name,
                _lines([errors(run, twin) for run in recordings], own),
                stages(first, twin),
                "nowhere" if difference is None else str(difference),
                shared,
                len((first.record.steps or {"start_s": ()})["start_s"]),
                real_s / took_s[name] if name in took_s else float("nan"),
            )
        )
    simulated = next((run for run in found.twins.values() if run.config.backend["name"] == "sim"), None)
    if simulated is None:
        found.notes.append("without a simulated run nothing says what the cost model has for a step")
        return found
    say("the core on recorded timing")
    try:
        found.steps = recorded_steps(first, simulated.config)
        say("the simulator on recorded steps")
        found.on_recorded = _errors_on_recorded(first, simulated, found.steps)
    except ValueError as error:
        found.notes.append(f"no sources of error: {error}")
    return found


def _errors_on_recorded(real: Recording, simulated: Recording, steps: Steps) -> list[Error]:
    """Errors that are left when each step takes what was recorded."""
    import tempfile

    from omegaconf import OmegaConf

    config = simulated.config
    record = simulate_on(steps, real.workload, config)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        experiment.prepare_directory(path, OmegaConf.to_yaml(OmegaConf.structured(config)))
        experiment.write(path, record, Slo(**config.slo), real.workload.trace)
        return errors(real, Recording.load(path))


def _own_errors(recordings: list[Recording]) -> dict[tuple[str, str], float]:
    """How far real runs are from each other, by metric and statistic."""
    collected: dict[tuple[str, str], list[float]] = {}
    for one, other in permutations(recordings, 2):
        for error in errors(one, other):
            collected.setdefault((error.metric, error.statistic), []).append(abs(error.error))
    return {key: float(np.mean(values)) for key, values in collected.items()}


def _lines(by_run: list[list[Error]], own: dict[tuple[str, str], float]) -> list[Line]:
    collected: dict[tuple[str, str], list[Error]] = {}
    for found in by_run:
        for error in found:
            collected.setdefault((error.metric, error.statistic), []).append(error)
    return [
        Line(
            *key,
            float(np.mean([error.real for error in same])),
            float(np.mean([error.twin for error in same])),
            float(np.mean([error.error for error in same])),
            own.get(key, float("nan")),
        )
        for key, same in collected.items()
    ]


def write(found: Validation, out: Path) -> None:
    """Leave the tables (Parquet), the pictures (PNG) and a short summary (JSON).

    Raises:
        ValueError: A picture cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    from harness.validate.plots import plot_distributions, plot_quantiles

    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be written ({error.strerror}); name another directory") from None
    rows = [{"twin": f.name, **dataclasses.asdict(line)} for f in found.findings for line in f.lines]
    pq.write_table(pa.Table.from_pylist(rows), out / "errors.parquet", compression="zstd")
    rows = [{"twin": f.name, **dataclasses.asdict(stage)} for f in found.findings for stage in f.stages]
    pq.write_table(pa.Table.from_pylist(rows), out / "stages.parquet", compression="zstd")
    if found.steps is not None:
        steps = found.steps
        columns = as_columns(steps.shapes) | {"graph": steps.graph, "real_s": steps.real_s}
        columns |= {"predicted_s": steps.predicted_s} | ({"origin": steps.origins} if steps.origins else {})
        table = pa.table(columns)
        pq.write_table(table, out / "steps.parquet", compression="zstd")
    plot_distributions({"real": found.real[0], **found.twins}, out / "cdf.png")
    plot_quantiles(found.real, found.twins, out / "qq.png")
    summary = {
        "real": [str(run.run.path) for run in found.real],
        "twins": [
            {
                "name": f.name,
                "decisions_part": f.parted,
                "steps_shared": f.shared_steps,
                "steps": f.steps,
                "real_seconds_per_second": None if np.isnan(f.speed) else f.speed,
                "errors": {f"{line.metric}.{line.statistic}": line.error for line in f.lines},
            }
            for f in found.findings
        ],
        "errors_on_recorded_steps": {f"{e.metric}.{e.statistic}": e.error for e in found.on_recorded},
        "notes": found.notes,
    }
    (out / "validation.json").write_text(json.dumps(summary, indent=2) + "\n")

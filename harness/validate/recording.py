"""Run directories as they are held against each other: tables, configuration, and what must be the same in both."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np

from harness.config import ExperimentConfig
from harness.metrics.files import Run, load_run
from harness.metrics.schema import LIST_KINDS, NULL, PHASES, STEP_COLUMNS, Kind
from harness.record import RunRecord
from harness.validate.errors import ValidationError
from harness.validate.recorded import SIZES
from harness.workload import Workload

_SAME = ("model", "policy", "tp", "trace", "workload")


@dataclass(frozen=True)
class Recording:
    """A run directory.

    Attributes:
        run: Its files.
    """

    run: Run

    @classmethod
    def load(cls, path: Path) -> Recording:
        """Read a run directory.

        Raises:
            RunError: It is none, or a file of it cannot be read.
        """
        return cls(load_run(path))

    @cached_property
    def config(self) -> ExperimentConfig:
        """What was run."""
        from omegaconf import OmegaConf

        return cast(
            "ExperimentConfig",
            OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ExperimentConfig), self.run.config)),
        )

    @cached_property
    def workload(self) -> Workload:
        """What was replayed.

        Raises:
            ValueError: Its trace is not there any more.
        """
        from harness.experiment import load_trace

        return Workload.of(load_trace(self.config.trace), **asdict(self.config.workload))

    @cached_property
    def record(self) -> RunRecord:
        """Its tables, as a backend hands them over.

        Raises:
            RunError: It has no step table.
        """
        frame = self.run.steps
        steps: dict[str, Any] = {}
        for column in STEP_COLUMNS:
            if column.kind in LIST_KINDS or column.name not in frame:
                continue
            values = frame[column.name]
            if column.kind is Kind.CODE:
                steps[column.name] = np.array([PHASES.index(word) for word in values.astype(str)], np.int8)
            elif column.kind is Kind.FLOAT:
                steps[column.name] = values.to_numpy(np.float64, na_value=np.nan)
            else:
                steps[column.name] = values.astype("Int64").to_numpy(np.int64, na_value=NULL)
        return RunRecord(
            dict(self.run.columns),
            steps,
            self.run.decisions(),
            None,
            complete=self.run.complete,
            server=self.run.summary.get("server", {}),
        )

    @property
    def duration_s(self) -> float:
        """Seconds from the first arrival to the last token.

        Raises:
            ValidationError: No request that counts was served.
        """
        duration_s = self.run.summary["throughput"]["duration_s"]
        if duration_s is None:
            raise ValidationError(
                f"{self.run.path}: no request that counts was served; set workload.warmup_s="
                f"{self.config.workload.warmup_s:g} to less than the workload lasts"
            )
        return float(duration_s)


def check_alike(real: Recording, twin: Recording) -> None:
    """See that two runs are of one server and one workload.

    Raises:
        ValidationError: They are not; or one of them did not come to its end.
    """
    for recording in (real, twin):
        if not recording.run.complete:
            raise ValidationError(f"{recording.run.path}: the run is incomplete; run it again to its end")
    difference = differing(real, twin)
    if difference is not None:
        raise ValidationError(difference)


def differing(real: Recording, twin: Recording) -> str | None:
    """In what two runs are not of one server and one workload, and the way out; None where they are."""
    configs = asdict(real.config), asdict(twin.config)  # a knob that one of them was recorded before has its default
    for name in _SAME:
        ours, theirs = (config[name] for config in configs)
        if ours != theirs:
            knob, one, other = _first_unequal(name, ours, theirs)
            return f"{knob}={one} in {real.run.path}, {other} in {twin.run.path}: replay both with the same"
    servers = real.run.summary.get("server", {}), twin.run.summary.get("server", {})
    for name in SIZES:
        one, other = (server.get(name) for server in servers)
        if one != other:
            return (
                f"engine.{name}={one} in {real.run.path}, {other} in {twin.run.path}: simulate with "
                f"engine.{name}={one}, as the server recorded at its start"
            )
    return None


def _first_unequal(knob: str, one: Any, other: Any) -> tuple[str, Any, Any]:
    """The first value in which two configurations differ, by its dotted name."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in sorted({*one, *other}):
            if one.get(key) != other.get(key):
                return _first_unequal(f"{knob}.{key}", one.get(key), other.get(key))
    return knob, one, other

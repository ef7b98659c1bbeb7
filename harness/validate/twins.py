"""Record, then judge: real runs on the machine that has the server, their twins there or anywhere else."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness import experiment
from harness.compose import compose
from harness.config import ConfigError, ExperimentConfig
from harness.metrics.slo import Slo
from harness.validate.errors import ValidationError
from harness.validate.recorded import SIZES, sizes_of
from harness.validate.recording import Recording, differing

if TYPE_CHECKING:
    from harness.progress import Progress
    from harness.record import RunRecord

Say = Callable[[str], None]
_TWINS = ("sim", "emulate")
_OF_THE_TWIN = ("cost", "backend")
_REPEAT = re.compile(r"(runtime_)?\d+")  # the directory of one of several runs


def record(overrides: Sequence[str], repeats: int, out: Path, say: Say) -> list[Path]:
    """Replay a workload through the real server.

    Args:
        overrides: As for ``harness run``.
        repeats: How often.
        out: Gets a run directory each.
        say: Told what is under way.

    Returns:
        Directories of those that came to their end, one at least.

    Raises:
        ValueError: A knob is wrong, or none came to its end.
    """
    if repeats < 1:
        raise ConfigError(f"--repeats {repeats}: at least 1")
    config = compose(["backend=runtime", *(_for_any_backend(word) for word in overrides if _group(word) != "cost")])
    made = []
    for number in range(1, repeats + 1):
        say(f"runtime, {number} of {repeats}")
        directory = out / f"runtime_{number}"
        found = _replayed(config, directory)
        if found.complete:
            made.append(directory)
        elif found.failure is None:
            raise KeyboardInterrupt
        else:
            say(f"runtime, {number} of {repeats}: {found.failure}; left out")
    if not made:
        raise ConfigError(f"no real run came to its end; what was measured is in {out}")
    return made


def replay_twins(
    real: Path, backends: Sequence[str], overrides: Sequence[str], out: Path, say: Say
) -> tuple[dict[str, Path], dict[str, float]]:
    """Replay the workload of a real run through twins of its server, on the sizes that this recorded.

    Args:
        real: Its run directory.
        backends: Twins: ``sim``, ``emulate``.
        overrides: Of ``cost`` and ``backend``; other words are the real run's to say, and not looked at.
        out: Gets a run directory each.
        say: Told what is under way.

    Returns:
        Their directories, and the seconds that each took.

    Raises:
        ValueError: A knob is wrong, or the run cannot be replayed.
    """
    recording = Recording.load(real)
    made: dict[str, Path] = {}
    took_s: dict[str, float] = {}
    for backend in backends:
        say(backend)
        config = _twin_config(recording, backend, overrides)
        begun_s = time.monotonic()
        _replayed(config, out / backend)
        made[backend], took_s[backend] = out / backend, time.monotonic() - begun_s
    return made, took_s


def check_backends(backends: Iterable[str]) -> None:
    """See that backends are twins.

    Raises:
        ConfigError: One is not.
    """
    for backend in backends:
        if backend not in _TWINS:
            raise ConfigError(f"--backends {backend}: choose from {', '.join(_TWINS)}")


def check_of_the_twin(overrides: Iterable[str]) -> None:
    """See that words say nothing that a recorded run has said already.

    Raises:
        ConfigError: One does.
    """
    for word in overrides:
        if _group(word) not in _OF_THE_TWIN:
            raise ConfigError(
                f"{word}: with from= the runs say what was replayed; only cost and backend are left to choose"
            )


def recorded(roots: Iterable[Path], say: Say) -> dict[str, list[Path]]:
    """The real server's runs, those of one server and one workload together.

    Args:
        roots: Run directories, or directories that hold some at any depth.
        say: Told of those that are left out.

    Returns:
        Run directories by a name that tells them apart, in order of their paths.

    Raises:
        ValueError: There are none, or one cannot be read.
    """
    groups: dict[str, list[Recording]] = {}
    for root in roots:
        known = 0
        for path in [root] if (root / "config.yaml").is_file() else sorted(p.parent for p in root.rglob("config.yaml")):
            if path != root and not (path / "summary.json").is_file():
                say(f"{path}: the run did not come to its end; left out")
                continue
            recording = Recording.load(path)
            if recording.run.config.get("backend", {}).get("name") != "runtime":
                continue
            known += 1
            if not recording.run.complete:
                say(f"{path}: the run is incomplete; left out")
                continue
            alike = next((runs for runs in groups.values() if differing(runs[0], recording) is None), None)
            if alike is None:
                alike = groups.setdefault(_free(_name(root, path), groups), [])
            alike.append(recording)
        if not known:
            raise ValidationError(f"{root}: no run of backend=runtime there; record one: harness run backend=runtime")
    if not groups:
        raise ValidationError("no recorded run came to its end; record one anew")
    return {name: [recording.run.path for recording in runs] for name, runs in groups.items()}


def _name(root: Path, path: Path) -> str:
    """What a run's directory is called below a root, but for the number of the repeat."""
    parts = path.relative_to(root).parts or (path.name,)
    if _REPEAT.fullmatch(parts[-1]):
        parts = parts[:-1]
    return "_".join(parts) or root.name


def _free(name: str, taken: Iterable[str]) -> str:
    number = 2
    free = name
    while free in taken:
        free, number = f"{name}_{number}", number + 1
    return free


def _twin_config(real: Recording, backend: str, overrides: Sequence[str]) -> ExperimentConfig:
    chosen = [_for_any_backend(word) for word in overrides if _group(word) in _OF_THE_TWIN]
    # The real runs' client has no API server between: that way costs nothing but what it was measured to.
    direct = backend == "sim" and real.config.backend["client"] == "direct"
    made = compose([f"backend={backend}", *(["++backend.hops.client_s=0"] if direct else []), *chosen])
    sizes = sizes_of(real.record)
    return dataclasses.replace(
        real.config,
        backend=made.backend,
        cost=made.cost if any(_group(word) == "cost" for word in chosen) else real.config.cost,
        engine=dataclasses.replace(real.config.engine, **{name: getattr(sizes, name) for name in SIZES}),
    )


def _group(word: str) -> str:
    return word.lstrip("+").partition("=")[0].partition(".")[0]


def _for_any_backend(word: str) -> str:
    """A backend's knob is set also in a configuration of another backend, which does not look at it."""
    return f"++{word.lstrip('+')}" if word.lstrip("+").startswith("backend.") else word


def _replayed(config: ExperimentConfig, directory: Path) -> RunRecord:
    from omegaconf import OmegaConf

    from harness.interrupt import Interrupt

    experiment.prepare_directory(directory, OmegaConf.to_yaml(OmegaConf.structured(config)))
    trace = experiment.load_trace(config.trace)
    with Interrupt() as interrupt:

        def watch(progress: Progress) -> bool:
            del progress
            return not interrupt.requested

        found = experiment.replay(config, trace, watch)
    experiment.write(directory, found, Slo(**config.slo), trace)
    return found

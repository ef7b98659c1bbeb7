"""``harness run``: one experiment, or with ``-m`` every combination of the values given."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from harness.complaint import complain
from harness.config import ConfigError, ExperimentConfig, conf_dir
from harness.exit_code import ExitCode
from harness.report.terminal import shortest

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from rich.console import Console


def main(argv: list[str]) -> ExitCode:
    """Run Hydra on the overrides in ``argv``.

    Returns:
        The highest of the runs' codes.

    Raises:
        ConfigError: An override is wrong.
    """
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from harness.compose import one_line, register

    register()
    GlobalHydra.instance().clear()
    codes: list[ExitCode] = []

    def task(config: DictConfig) -> None:
        codes.append(_run(config))

    argv_before, full_before = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = ["harness run", *argv]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise to us what Hydra would print
    try:
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")(task)()
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(one_line(error)) from error
    except OSError as error:
        raise ConfigError(
            f"hydra.run.dir: {error.filename} cannot be written ({error.strerror}); name another"
        ) from error
    finally:
        sys.argv = argv_before
        if full_before is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full_before
    return max(codes, default=ExitCode.OK)


def _run(config: DictConfig) -> ExitCode:
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import OmegaConf
    from rich.console import Console

    from harness.compose import settled
    from harness.errors import USER_ERRORS
    from harness.naming import header

    now = HydraConfig.get()
    run_dir = Path(now.runtime.output_dir)
    several = now.mode is RunMode.MULTIRUN
    console = Console(highlight=False, soft_wrap=True)
    if not several:
        console.print(header(config, now.runtime.choices, now.overrides.task))
    try:
        settings = settled(config)
        config_yaml = OmegaConf.to_yaml(config, resolve=True)
        return _experiment(settings, config_yaml, run_dir, console, line_only=several)
    except USER_ERRORS as error:  # here, so that with -m the other runs go on
        return _failed(str(error), getattr(error, "details", ""), run_dir)


def _experiment(
    config: ExperimentConfig, config_yaml: str, run_dir: Path, console: Console, *, line_only: bool
) -> ExitCode:
    from harness import experiment
    from harness.faults import in_one_line
    from harness.interrupt import Interrupt
    from harness.metrics.slo import Slo
    from harness.progress import Progress, ProgressLine
    from harness.report.console import final_block, final_line

    slo = Slo(**config.slo)
    experiment.prepare_directory(run_dir, config_yaml)
    trace = experiment.load_trace(config.trace)
    if not line_only:
        for note in trace.notes:
            console.print(f"  {note}", style="dim", markup=False)
    with Interrupt() as interrupt, ProgressLine(console) as line:

        def watch(progress: Progress) -> bool:
            line(progress)
            return not interrupt.requested

        record = experiment.replay(config, trace, watch)
    summary = experiment.write(run_dir, record, slo, trace)
    if line_only:
        console.print(f"{run_dir.name}: {final_line(summary)}", markup=False)
    else:
        console.print(final_block(summary), markup=False)
    refused = [error for error in record.requests["error"] if error]
    if refused:
        console.print(f"{len(refused):,} requests did not end well, the first: {refused[0]}", markup=False)
    if not line_only:
        for note in record.notes:
            console.print(note, style="dim", markup=False)
        console.print(f"Run directory: {shortest(run_dir)}", markup=False)
    if record.failure is not None:
        _failed(in_one_line(record.failure, config.policy), record.failure, run_dir)
        console.print("The tables hold what was measured before, marked incomplete.", style="bold")
        return ExitCode.FAILED
    if not record.complete:
        console.print("Interrupted: the tables hold what was measured so far, marked incomplete.", style="bold")
        return ExitCode.INTERRUPTED
    return ExitCode.DEGRADED if summary["load"].get("degraded") else ExitCode.OK


def _failed(why: str, details: str, run_dir: Path) -> ExitCode:
    """Say why a run failed, and keep it beside the run's configuration; returns the exit code for a mistake."""
    from harness import experiment
    from harness.metrics.files import CONFIG, ERROR

    line = " ".join(why.split())
    if (run_dir / CONFIG).is_file():
        try:
            experiment.keep_error(run_dir, line, details)
        except OSError:  # a full disk, which may be why
            details = ""
        if "\n" in details:
            line += f"; more in {shortest(run_dir / ERROR)}"
    complain("harness run", line)
    return ExitCode.MISTAKE

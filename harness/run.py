"""``harness run``: one experiment, or with ``-m`` every combination of the values given."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

from harness.config import ConfigError, ExperimentConfig, conf_dir

if TYPE_CHECKING:
    from omegaconf import DictConfig
    from rich.console import Console

OK, FAILED, DEGRADED, INTERRUPTED = 0, 1, 3, 130


def main(argv: list[str]) -> int:
    """Run Hydra on the overrides in ``argv``.

    Returns:
        0; 1 failed; 2 the user's mistake, said in one line; 3 finished, but degraded (see ``load`` in the summary); 130
        interrupted, what was measured is kept.

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
    codes: list[int] = []

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
    return max(codes, default=OK)


def _run(config: DictConfig) -> int:
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf
    from rich.console import Console

    from harness.errors import USER_ERRORS, say

    console = Console(highlight=False, soft_wrap=True)
    choices = HydraConfig.get().runtime.choices
    console.print(
        f"ServeTwin: trace [bold]{config.trace.path or config.trace.name}[/] through backend [bold]"
        f"{choices['backend']}[/], policy [bold]{choices['policy']}[/], {config.model.name} on {config.tp}x "
        f"{config.hardware.name}"
    )
    try:
        settings = cast("ExperimentConfig", OmegaConf.to_object(config))
        return _experiment(settings, OmegaConf.to_yaml(config, resolve=True), console)
    except USER_ERRORS as error:  # here, so that with -m the other runs go on
        return say(error)


def _experiment(config: ExperimentConfig, config_yaml: str, console: Console) -> int:
    from hydra.core.hydra_config import HydraConfig

    from harness import experiment
    from harness.interrupt import Interrupt
    from harness.metrics.slo import Slo
    from harness.progress import Progress, ProgressLine
    from harness.report.console import final_block

    run_dir = Path(HydraConfig.get().runtime.output_dir)
    slo = Slo(**config.slo)
    experiment.prepare_directory(run_dir, config_yaml)
    trace = experiment.load_trace(config.trace)
    for note in trace.notes:
        console.print(f"  {note}", style="dim", markup=False)
    with Interrupt() as interrupt, ProgressLine(console) as line:

        def watch(progress: Progress) -> bool:
            line(progress)
            return not interrupt.requested

        record = experiment.replay(config, trace, watch)
    summary = experiment.write(run_dir, record, slo, trace)
    console.print(final_block(summary), markup=False)
    refused = [error for error in record.requests["error"] if error]
    if refused:
        console.print(f"{len(refused):,} requests did not end well, the first: {refused[0]}", markup=False)
    for note in record.notes:
        console.print(note, style="dim", markup=False)
    console.print(f"Run directory: {_shortest(run_dir)}", markup=False)
    if record.failure is not None:
        print(f"error: {record.failure}", file=sys.stderr)  # noqa: T201
        console.print("The tables hold what was measured before, marked incomplete.", style="bold")
        return FAILED
    if not record.complete:
        console.print("Interrupted: the tables hold what was measured so far, marked incomplete.", style="bold")
        return INTERRUPTED
    return DEGRADED if summary["load"].get("degraded") else OK


def _shortest(path: Path) -> Path:
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path

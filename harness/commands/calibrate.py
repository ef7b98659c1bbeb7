"""``harness calibrate``: measure the runtime's engine and host stages on this machine, into a profile."""

from __future__ import annotations

import argparse
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from harness.commands.parser import command_parser
from harness.complaint import complain
from harness.exit_code import ExitCode

if TYPE_CHECKING:
    from rich.console import Console

    from harness.calibrate.calibration import Calibration
    from harness.cost.measured import MeasuredProfile

_EXAMPLE = """\
examples:
  python -m harness calibrate model=tiny hardware=cpu
  python -m harness calibrate model=qwen3_8b hardware=h100 engine.page_size=16 ++backend.device=cuda --seconds 90
  python -m harness run model=tiny hardware=cpu cost=profile cost.path=profiles/cpu_tiny_tp1
  python -m harness calibrate from=vllm_result.json model=qwen3_8b hardware=h100 policy=vllm

Overrides are those of harness run; the engine is that of backend=runtime. Ctrl-C ends it early and keeps what was
measured. Host stages are those of token-id requests without HTTP (backend.client=direct). from=FILE measures nothing:
it fits the roofline's parameters to the requests of a run, ours or another tool's, and tells its error on others.
"""
_SAY_EVERY_S = 2.0  # where the output is no terminal


def main(argv: list[str]) -> ExitCode:
    """Measure, save, and show what was measured.

    Returns:
        0, or 1 where the engine failed.
    """
    parser = command_parser("calibrate", __doc__, _EXAMPLE)
    parser.add_argument(
        "--out", type=Path, help="directory of the profile (profiles/HARDWARE_MODEL_tpN), or JSON file of a fit"
    )
    parser.add_argument("--seconds", type=float, default=180.0, help="wall-clock time to take (180)")
    parser.add_argument("overrides", nargs="*", help="of the configuration, as for harness run")
    arguments = parser.parse_intermixed_args(argv)

    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    sources = [word.removeprefix("from=") for word in arguments.overrides if word.startswith("from=")]
    if sources:
        return _fit(Path(sources[-1]), arguments, console)
    out, profile, calibration = _calibrate(arguments, console, _said(arguments))
    if not profile.steps:
        complain("harness calibrate", "nothing was measured; give it more time, --seconds 180")
        return ExitCode.FAILED
    _show(profile, console)
    took = ", ".join(f"{part} {seconds:.1f} s" for part, seconds in calibration.took_s.items())
    console.print(f"Time: {took}", markup=False)
    console.print(f"Profile: {out}; use it by cost=profile cost.path={out}", markup=False)
    for failure in calibration.failures:
        complain("harness calibrate", f"not measured: {failure}")
    return ExitCode.FAILED if calibration.failures else ExitCode.OK


def _said(arguments: argparse.Namespace) -> str:
    """The command, for the profile: where it was written does not matter to others."""
    return " ".join(["python -m harness calibrate", *arguments.overrides, f"--seconds {arguments.seconds:g}"])


def _calibrate(
    arguments: argparse.Namespace, console: Console, command: str
) -> tuple[Path, MeasuredProfile, Calibration]:
    from harness.compose import compose
    from harness.config import ConfigError
    from harness.cost.measured import profile_name

    if not arguments.seconds > 0:
        raise ConfigError(f"--seconds {arguments.seconds:g}: above 0")
    config = compose(["backend=runtime", "cost=roofline", *arguments.overrides])
    if config.backend["name"] != "runtime":
        raise ConfigError(f"backend={config.backend['name']}: only the runtime has an engine to measure")
    name = profile_name(str(config.model["name"]), str(config.hardware["name"]), config.tp)
    out = arguments.out or Path("profiles") / name
    console.print(
        f"Calibrating [bold]{config.model['name']}[/] on {config.tp}x {config.hardware['name']} for at most "
        f"{arguments.seconds:g} s"
    )
    from harness.calibrate.calibration import Calibration

    status = console.status("") if console.is_terminal else nullcontext()
    said_s = float("-inf")
    with status as shown:

        def watch(line: str) -> None:
            nonlocal said_s
            if shown is not None:
                shown.update(line)
            elif time.monotonic() - said_s > _SAY_EVERY_S:
                said_s = time.monotonic()
                console.print(f"  {line}", markup=False)

        calibration = Calibration(config, seconds=arguments.seconds, out=out, command=command, watch=watch)
        return out, calibration.run(), calibration


def _fit(source: Path, arguments: argparse.Namespace, console: Console) -> ExitCode:
    from harness.calibrate.observed import fit_file, fit_tables, write_fit
    from harness.compose import compose

    knobs = [word for word in arguments.overrides if not word.startswith("from=")]
    config = compose(["backend=sim", "cost=roofline", *knobs])
    with console.status("") if console.is_terminal else nullcontext() as shown:
        found = fit_file(source, config, lambda line: None if shown is None else shown.update(line))
    for table in fit_tables(found):
        console.print(table)
    console.print(f"Use it by: {' '.join(found.overrides)}", markup=False)
    if arguments.out is not None:
        write_fit(found, arguments.out)
        console.print(f"Fit: {arguments.out}", markup=False)
    return ExitCode.OK


def _show(profile: MeasuredProfile, console: Console) -> None:
    """What was measured: steps by kind, host stages from the smallest to the largest."""
    from rich.table import Table

    from harness.cost.cross_validation import cross_validate
    from harness.cost.profile import ProfileCost, roofline_of

    table = Table(title=f"{profile.model.name} on {profile.tp}x {profile.device}")
    for column in ("", "points", "fastest ms", "slowest ms", "median IQR"):
        table.add_column(column, justify="right" if column else "left")
    for kind in ("prefill", "decode", "mixed"):
        _row(table, kind, [(p.device_s, p.spread_s) for p in profile.steps if p.shape.kind == kind])
    for stage in dict.fromkeys(point.stage for point in profile.host):
        _row(table, f"host: {stage}", [(p.seconds, p.spread_s) for p in profile.host if p.stage == stage])
    _row(table, "all-reduce", [(p.seconds, p.spread_s) for p in profile.collectives])
    console.print(table)
    roofline = roofline_of(profile)
    checked = cross_validate(ProfileCost(profile, roofline))
    table = Table(title="the cost model at measured steps that it was not told of")
    for column in ("", "points", "median error %", "p95 %", "median with its sign %"):
        table.add_column(column, justify="right" if column else "left")
    kinds_found = {kind: checked.of(kind) for kind in ("prefill", "decode", "mixed")}
    for kind, found in (kinds_found | {"all": checked, "corners, extrapolated": checked.corners}).items():
        if len(found.errors):
            figures = (f"{found.median * 100:.1f}", f"{found.p95 * 100:.1f}", f"{found.bias * 100:+.1f}")
            table.add_row(kind, str(len(found.errors)), *figures)
    console.print(table)
    if profile.shared_saves is not None:
        console.print(f"KV that another sequence of a step reads too: {profile.shared_saves:.0%} less time to read it")
    if (limit := profile.power_limit) is not None:
        console.print(
            f"Behind prefills, at the power limit: prefills {limit.compute:.0%} slower, decodes {limit.memory:.1%}; "
            f"the clocks settle in {limit.settles_s * 1e3:.0f} ms"
        )


def _row(table: object, name: str, points: list[tuple[float, float]]) -> None:
    from statistics import median

    from rich.table import Table

    if isinstance(table, Table) and points:
        seconds = [point[0] for point in points]
        spread = median(spread / max(took, 1e-9) for took, spread in points)
        cells = f"{len(points)}", f"{min(seconds) * 1e3:.3f}", f"{max(seconds) * 1e3:.3f}", f"{spread:.0%}"
        table.add_row(name, *cells)

"""``harness validate``: the simulator held against the real server, and where its errors come from."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np

from harness.commands.parser import command_parser
from harness.exit_code import ExitCode
from harness.report.terminal import table_console

if TYPE_CHECKING:
    from rich.console import Console

    from harness.validate.agreement import Error
    from harness.validate.sources import Steps
    from harness.validate.validation import Finding, Validation

_EXAMPLE = """\
examples:
  python -m harness validate model=tiny hardware=cpu policy=vllm trace.head=200 trace.rate=20
  python -m harness validate model=qwen3_8b hardware=h100 ++backend.device=cuda cost=profile cost.path=profiles/8b
  python -m harness validate --backends sim,emulate --repeats 3 trace=mooncake_conversation trace.cap_total_tokens=4000
  python -m harness validate runs/REAL runs/SIM

Record on a machine that has the GPU, judge on one that has none:
  python -m harness run backend=runtime ++backend.device=cuda model=qwen3_8b trace.rate=8 hydra.run.dir=recorded/chat/1
  python -m harness validate from=recorded cost=profile cost.path=profiles/8b

With overrides, those of harness run: the workload goes through backend=runtime as often as --repeats says, then through
its twins on the pages, page size and limits that the server recorded. from=DIRECTORY takes recorded runs (all below it;
those of one server and one workload count as repeats); only cost and backend are then left to choose. With two run
directories or more: the first is the real one.
"""
_PAGE = "validation.md"
_SHOWN = ("ttft_s", "tpot_s", "itl_s", "e2e_s")
_ALSO = ("requests_per_s", "output_tokens_per_s", "hit_ratio", "prefill_step_s", "decode_step_s", "mixed_step_s")


def main(argv: list[str]) -> ExitCode:
    """Replay, compare, show and write.

    Returns:
        0.
    """
    parser = command_parser("validate", __doc__, _EXAMPLE)
    parser.add_argument("--backends", default="sim", help="twins of the runtime: sim, emulate (sim)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of the real server (3)")
    parser.add_argument("--out", type=Path, help="directory for tables and pictures (runs/DAY/TIME_validation)")
    parser.add_argument("words", nargs="*", help="overrides, as for harness run; from=DIRECTORY; or run directories")
    arguments = parser.parse_intermixed_args(argv)

    from harness.validate import twins, validation
    from harness.validate.page import page

    console = table_console()

    def say(line: str) -> None:
        console.print(f"{line} ...", style="dim", markup=False)

    out = arguments.out or Path("runs") / time.strftime("%Y-%m-%d/%H-%M-%S_validation")
    backends = arguments.backends.split(",")
    roots = [Path(word.removeprefix("from=")) for word in arguments.words if word.startswith("from=")]
    overrides = [word for word in arguments.words if "=" in word and not word.startswith("from=")]
    paths = [Path(word) for word in arguments.words if "=" not in word]
    twins.check_backends(backends)
    if paths:
        others = {path.name: path for path in paths[1:]}
        if len(others) != len(paths) - 1 or not others or len(paths) != len(arguments.words):
            parser.error("give the real run's directory and then others, each of another name, and no overrides")
        found = {paths[0].name: validation.validate(paths[:1], others, {}, say)}
        validation.write(found[paths[0].name], out)
    else:
        if roots:
            twins.check_of_the_twin(overrides)
            real = twins.recorded(roots, say)
        else:
            real = {"workload": twins.record(overrides, arguments.repeats, out, say)}
        found = {}
        for name, runs in real.items():
            place = out / name if len(real) > 1 else out
            if len(real) > 1:
                say(f"{name}: {len(runs)} recorded")
            made, took_s = twins.replay_twins(runs[0], backends, overrides, place, say)
            found[name] = validation.validate(runs, made, took_s, say)
            validation.write(found[name], place)
    _show_all(found, console)
    (out / _PAGE).write_text(page(found))
    console.print(f"Tables and pictures: {out}; as Markdown: {out / _PAGE}", markup=False, soft_wrap=True)
    return ExitCode.OK


def _show_all(found: dict[str, Validation], console: Console) -> None:
    if len(found) == 1:
        (only,) = found.values()
        _show(only, console)
        return
    for name, one in found.items():
        for finding in one.findings:
            _show_errors(finding, len(one.real), console, f"{name}: ")
        for note in one.notes:
            console.print(f"{name}: {note}", style="bold", markup=False)


def _show(found: Validation, console: Console) -> None:
    for finding in found.findings:
        _show_errors(finding, len(found.real), console)
        _show_stages(finding, console)
        console.print(
            f"Decisions of {finding.name} part from the real run's: {finding.parted}; {finding.shared_steps:,} of "
            f"{finding.steps:,} steps before that are the same",
            markup=False,
        )
        if not np.isnan(finding.speed):
            console.print(f"{finding.name} ran {finding.speed:,.1f} times as fast as the real server")
    if found.steps is not None:
        _show_steps(found.steps, console)
        verdict = "identical" if found.steps.difference is None else str(found.steps.difference)
        console.print(
            f"On recorded timing, decisions of the core in {len(found.steps.shapes):,} steps: {verdict}", markup=False
        )
    if found.on_recorded:
        console.print(f"With each step's seconds as recorded, the simulator's errors are: {_brief(found.on_recorded)}")
    for note in found.notes:
        console.print(note, style="bold", markup=False)


def _show_errors(finding: Finding, runs: int, console: Console, of: str = "") -> None:
    from rich.table import Table

    title = f"{of}errors of {finding.name}, % (in brackets how far {runs} real runs are from each other)"
    table = Table(title=title)
    statistics = ("mean", "p50", "p90", "p95", "p99", "mape", "rank_correlation")
    table.add_column("")
    for statistic in statistics:
        table.add_column(statistic.replace("_", " ").replace("mape", "each (MAPE)"), justify="right")
    cells = {(line.metric, line.statistic): line for line in finding.lines}
    for metric in (*_SHOWN, *_ALSO):
        row = []
        for statistic in statistics:
            line = cells.get((metric, statistic))
            row.append("" if line is None else _cell(line.error, line.own_error, statistic))
        if any(row):
            table.add_row(metric.removesuffix("_s").upper() if metric in _SHOWN else metric, *row)
    console.print(table)


def _cell(error: float, own: float, statistic: str) -> str:
    scale, form = (1, ".3f") if statistic == "rank_correlation" else (100, "+.1f" if statistic != "mape" else ".1f")
    spread = "" if np.isnan(own) else f" ({own * scale:{form.lstrip('+')}})"
    return f"{error * scale:{form}}{spread}"


def _show_stages(finding: Finding, console: Console) -> None:
    from rich.table import Table

    table = Table(title=f"the mean request's way, real and {finding.name}")
    for column in ("", "real ms", f"{finding.name} ms", "% of E2E"):
        table.add_column(column, justify="right" if column else "left")
    for stage in finding.stages:
        table.add_row(stage.name, f"{stage.real_s * 1e3:.3f}", f"{stage.twin_s * 1e3:.3f}", f"{stage.share * 100:+.2f}")
    console.print(table)


def _show_steps(steps: Steps, console: Console) -> None:
    from rich.table import Table

    from harness.cost.profile import Origin

    table = Table(title="the real server's steps, and the cost model on the same batches")
    for column in ("", "steps", "real s", "model s", "error %", "each: median %", "p95 %"):
        table.add_column(column, justify="right" if column else "left")
    kinds = steps.kinds() | {"all": np.ones(len(steps.shapes), bool)}
    for name, rows in kinds.items():
        real_s, predicted_s = steps.real_s[rows], steps.predicted_s[rows]
        if not len(real_s):
            continue
        each = np.abs(predicted_s / real_s - 1) * 100
        table.add_row(
            name,
            f"{len(real_s):,}",
            f"{real_s.sum():.3f}",
            f"{predicted_s.sum():.3f}",
            f"{(predicted_s.sum() / real_s.sum() - 1) * 100:+.1f}",
            f"{np.median(each):.1f}",
            f"{np.percentile(each, 95):.1f}",
        )
    console.print(table)
    if steps.origins:
        total_s = float(steps.predicted_s.sum())
        shares = []
        for origin in get_args(Origin):
            rows = np.array(steps.origins) == origin
            shares.append(f"{rows.sum():,} {origin} ({steps.predicted_s[rows].sum() / total_s:.1%} of the seconds)")
        console.print(f"The profile has these steps' seconds from: {', '.join(shares)}", markup=False)


def _brief(errors: list[Error]) -> str:
    wanted = [(metric, statistic) for metric in _SHOWN for statistic in ("mean", "mape")]
    known = {(error.metric, error.statistic): error.error for error in errors}
    words = [
        f"{metric.removesuffix('_s').upper()} {statistic} {known[metric, statistic]:+.1%}"
        for metric, statistic in wanted
        if (metric, statistic) in known
    ]
    return ", ".join(words)

"""``harness trace stats|convert|generate|fetch|list``: look at request traces, make them, get them."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.commands.parser import command_parser
from harness.exit_code import ExitCode
from harness.report.terminal import UNKNOWN, figure, table_console
from traces import catalog, transforms
from traces.errors import TraceError
from traces.load import bundled, load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.progress import TaskID
    from rich.table import Table

    from traces.generate import SyntheticWorkload
    from traces.schema import Trace
    from traces.stats import Stats

MOST_WINDOWS = 24  # that a person reads; the plot shows all
WINDOWS_S = (1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 43200, 86400)
STATS_EXAMPLE = """\
example:
  python -m harness trace stats conversation_trace.jsonl --plot conversation.png
"""
KNOBS = {
    "requests": "how many, all turns counted",
    "arrivals": "poisson, gamma, constant, all_at_once or closed_loop",
    "rate": "requests per second",
    "rate_end": "rate at the end of a linear ramp; without it the rate stays",
    "burstiness": "shape of gamma gaps: 1 is Poisson, smaller is burstier",
    "concurrency": "users of a closed loop",
    "input": "tokens that each turn adds",
    "output": "tokens of each answer",
    "turns": "requests of a session",
    "think_s": "seconds between an answer and the next turn",
    "prefixes": "number of shared system prompts",
    "prefix_tokens": "tokens of a system prompt",
    "prefix_skew": "Zipf exponent of their popularity",
    "seed": "of all random streams",
}
CONVERT_EXAMPLE = """\
example:
  python -m harness trace convert conversation_trace.jsonl eighth.parquet --sample 1/8 --cap-total 32768
"""
FETCH_EXAMPLE = """\
example:
  python -m harness trace fetch mooncake_conversation azure_conv_2023
"""
LIST_EXAMPLE = """\
example:
  SERVETWIN_TRACES=/data/traces python -m harness trace list
"""
GENERATE_EXAMPLE = """\
example (a length or a time is SHAPE:KNOB=NUMBER:...):
  python -m harness trace generate chat.jsonl --requests 1000 --rate 4 \\
      --input lognormal:mean=200:cv=1 --turns geometric:mean=3:high=8 --prefixes 8
"""


def main(argv: Sequence[str]) -> ExitCode:
    """Run one of the trace commands.

    Args:
        argv: Arguments after ``trace``.

    Returns:
        The exit code.
    """
    arguments = _parser().parse_args(argv)
    arguments.run(arguments)
    return ExitCode.OK


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("trace", "Look at request traces, make them, get them.", STATS_EXAMPLE)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, about: str, example: str) -> argparse.ArgumentParser:
        return commands.add_parser(
            name,
            help=about,
            description=about,
            epilog=example,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    stats = command("stats", "Describe a trace: a table and a plot.", STATS_EXAMPLE)
    stats.add_argument("trace", metavar="TRACE", help="a file, or a name that `trace list` shows")
    stats.add_argument("--plot", type=Path, metavar="FILE", help="save a plot (.png, .svg, .pdf)")
    stats.add_argument(
        "--window-s", type=float, metavar="S", help="windows of the hit ratio (a round time, some 20 of them)"
    )
    stats.set_defaults(run=_stats)

    convert = command("convert", "Read a trace, change it, write it in another format.", CONVERT_EXAMPLE)
    convert.add_argument("trace", metavar="TRACE", help="a file, or a name that `trace list` shows")
    convert.add_argument("out", type=Path, metavar="OUT", help="the file; its suffix says the format")
    convert.add_argument("--to", metavar="FORMAT", help="jsonl, csv, parquet or mooncake (the suffix of OUT)")
    for change in CHANGES:
        convert.add_argument(_flag(change.flag), type=change.kind, metavar=change.metavar, help=change.about)
    convert.set_defaults(run=_convert)

    made = command("generate", "Write a synthetic trace.", GENERATE_EXAMPLE)
    made.add_argument("out", type=Path, metavar="OUT", help="the file; its suffix says the format")
    made.add_argument("--name", help="what the trace is called (the file's name)")
    made.add_argument("--lengths-from", metavar="TRACE", help="draw lengths in pairs from this trace")
    _add_knobs(made)
    made.set_defaults(run=_generate)

    fetch = command("fetch", "Download public traces and verify them.", FETCH_EXAMPLE)
    fetch.add_argument("names", nargs="+", metavar="NAME", help="a name that `trace list` shows")
    fetch.add_argument("--to", type=Path, metavar="DIR", help="where to (the cache that `trace list` names)")
    fetch.set_defaults(run=_fetch)

    names = command("list", "Show the traces that are known by name, and where they lie.", LIST_EXAMPLE)
    names.set_defaults(run=_list)
    return parser


@dataclass(frozen=True)
class Change:
    """A flag of ``convert``.

    Attributes:
        flag: Its name.
        kind: Reads its value.
        metavar: Its value in the help.
        about: What it does.
        apply: The transform, given the trace and the value.
    """

    flag: str
    kind: Callable[[str], Any]
    metavar: str
    about: str
    apply: Callable[[Trace, Any], Trace]


def _span(text: str) -> tuple[float, float]:
    start, colon, end = text.partition(":")
    try:
        if colon:
            return float(start or 0), float(end or math.inf)
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is not START:END in seconds, such as 600:1200")


CHANGES = (  # in the order in which they are applied: first what selects requests
    Change(
        "window",
        _span,
        "START:END",
        "requests that arrive within these seconds",
        lambda trace, span: transforms.window(trace, *span),
    ),
    Change("sample", str, "1/8", "this share of the sessions, by a fixed hash", transforms.sample),
    Change("thin", str, "1/8", "this share of the requests, by a fixed hash", transforms.thin),
    Change("head", int, "N", "the first requests", transforms.head),
    Change("rate_scale", float, "X", "this many times the rate", transforms.scale_rate),
    Change("rate", float, "X", "this mean rate, requests per second", transforms.at_rate),
    Change("time_scale", float, "X", "arrivals and think times this many times as slow", transforms.scale_time),
    Change(
        "cap_prompt",
        int,
        "N",
        "no prompt longer than this, tokens",
        lambda trace, tokens: transforms.cap_lengths(trace, prompt=tokens),
    ),
    Change(
        "cap_output",
        int,
        "N",
        "no answer longer than this, tokens",
        lambda trace, tokens: transforms.cap_lengths(trace, output=tokens),
    ),
    Change(
        "cap_total",
        int,
        "N",
        "no prompt with its answer longer than this, tokens",
        lambda trace, tokens: transforms.cap_lengths(trace, total=tokens),
    ),
)


def _stats(arguments: argparse.Namespace) -> None:
    from harness.report.figure import check_format
    from traces.stats import describe

    check_format(arguments.plot)
    trace = load(arguments.trace)
    stats = describe(trace, _window_s(trace) if arguments.window_s is None else arguments.window_s)
    console = table_console()
    console.print(f"Trace {trace.name}", soft_wrap=True, markup=False)
    for table in _tables(stats):
        console.print(table)
    for note in trace.notes:
        console.print(f"Note: {note}", soft_wrap=True, markup=False)
    if arguments.plot is not None:
        from harness.report.trace_plot import plot_trace

        plot_trace(trace, stats, arguments.plot)
        console.print(f"Plot: {arguments.plot}", soft_wrap=True, markup=False)


def _window_s(trace: Trace) -> float:
    """The shortest round time of which a person can read all windows."""
    lasts_s = float(trace.arrival_s[-1] - trace.arrival_s[0])
    return next((window_s for window_s in WINDOWS_S if lasts_s < window_s * MOST_WINDOWS), lasts_s / (MOST_WINDOWS - 1))


def _convert(arguments: argparse.Namespace) -> None:
    from traces.writers import write

    trace = load(arguments.trace)
    for change in CHANGES:
        value = getattr(arguments, change.flag)
        if value is not None:
            trace = change.apply(trace, value)
    write(trace, arguments.out, arguments.to)
    _report(trace, arguments.out)


def _generate(arguments: argparse.Namespace) -> None:
    from traces.generate import generate
    from traces.writers import write

    lengths_from = None if arguments.lengths_from is None else load(arguments.lengths_from)
    name = arguments.name or arguments.out.name.split(".")[0]
    trace = generate(_workload(arguments), name, lengths_from)
    write(trace, arguments.out)
    _report(trace, arguments.out)


def _fetch(arguments: argparse.Namespace) -> None:
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    console = table_console()
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    for name in arguments.names:
        catalog.lookup(name)  # a wrong name is said before anything is downloaded
    with Progress(*columns, console=console, transient=True) as bar:
        tasks: dict[str, TaskID] = {}

        def show(file: str, done_bytes: int, total_bytes: int | None) -> None:
            if file not in tasks:
                tasks[file] = bar.add_task(file, total=total_bytes)
            bar.update(tasks[file], completed=done_bytes, total=total_bytes)

        paths = [catalog.fetch(name, arguments.to, show) for name in arguments.names]
    for name, path in zip(arguments.names, paths, strict=True):
        console.print(f"{name}: {path}", soft_wrap=True, markup=False)


def _list(_: argparse.Namespace) -> None:
    from rich.table import Table

    table = Table()
    table.add_column("name", no_wrap=True)
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("licence", no_wrap=True)
    table.add_column("what it is")
    table.add_column("here")
    for name, path in bundled().items():
        table.add_row(name, _size(path.stat().st_size), "Apache-2.0", "Bundled, generated: chat sessions", "yes")
    for name, entry in catalog.catalog().items():
        size = UNKNOWN if entry.bytes is None else _size(entry.bytes)
        here = "no" if catalog.find(name) is None else "yes"
        table.add_row(name, size, entry.licence, entry.title, here)
    console = table_console()
    console.print(table)
    looked = ", ".join(str(directory) for directory in catalog.search_path())
    console.print(f"Looked for in {looked}", soft_wrap=True, markup=False)


def _add_knobs(parser: argparse.ArgumentParser) -> None:
    """A flag for each knob of a workload."""
    from traces.generate import Distribution, SyntheticWorkload

    for knob in fields(SyntheticWorkload):
        kind = {Distribution: str, type(None): float}.get(type(knob.default), type(knob.default))
        parser.add_argument(
            _flag(knob.name),
            type=kind,
            metavar={int: "N", float: "X"}.get(kind, "SHAPE"),
            help=KNOBS[knob.name] + ("" if knob.default is None else f" ({knob.default})"),
        )


def _workload(arguments: argparse.Namespace) -> SyntheticWorkload:
    from traces.generate import Distribution, SyntheticWorkload

    given = {}
    for knob in fields(SyntheticWorkload):
        value = getattr(arguments, knob.name)
        if value is not None and isinstance(knob.default, Distribution):
            try:
                value = Distribution.parse(value)
            except TraceError as error:
                raise TraceError(f"{_flag(knob.name)}: {error}") from None
        if value is not None:
            given[knob.name] = value
    return SyntheticWorkload(**given)


def _flag(knob: str) -> str:
    return "--" + knob.replace("_", "-")


def _report(trace: Trace, path: Path) -> None:
    size = path.stat().st_size
    said = f"{path}: {len(trace):,} requests, {_size(size)}"
    table_console().print(said, soft_wrap=True, markup=False)


def _tables(stats: Stats) -> Iterator[Table]:
    """The facts, the lengths, and the windows of a trace."""
    from rich.table import Table

    facts = Table(show_header=False)
    for name, value in _facts(stats):
        facts.add_row(name, value)
    yield facts

    lengths = Table(title="Lengths (tokens)", title_justify="left")
    lengths.add_column("")
    for title in ("mean", "p50", "p90", "p99", "max", "total"):
        lengths.add_column(title, justify="right")
    totals = (stats.prompt_tokens, stats.output_tokens)
    for name, spread, total in zip(("prompt", "output"), (stats.prompt, stats.output), totals, strict=True):
        numbers = (spread.mean, spread.p50, spread.p90, spread.p99, spread.max, total)
        lengths.add_row(name, *(f"{number:,.0f}" for number in numbers))
    yield lengths

    if stats.has_blocks and 1 < len(stats.window_start_s) <= MOST_WINDOWS:
        windows = Table(title="Ideal prefix hit ratio over time", title_justify="left")
        for title in ("from (s)", "requests", "hit ratio"):
            windows.add_column(title, justify="right")
        rows = zip(stats.window_start_s, stats.window_requests, stats.window_hit_ratio, strict=True)
        for start, requests, ratio in rows:
            windows.add_row(f"{start:,.0f}", f"{requests:,}", _percent(ratio))
        yield windows


def _facts(stats: Stats) -> Iterator[tuple[str, str]]:
    yield "requests", f"{stats.requests:,}"
    yield "duration (s)", f"{stats.duration_s:,.1f}"
    yield "rate (requests per second)", figure(stats.rate)
    yield "burstiness (CV of inter-arrival)", figure(stats.burstiness_cv)
    if stats.sessions:
        yield "sessions", f"{stats.sessions:,}, {stats.turns:.2f} requests each"
    else:
        yield "sessions", "none named"
    yield "requests that wait for a parent", f"{stats.chained:,}"
    if not stats.has_blocks:
        yield "prefixes", "none named"
        return
    yield "follow-ups", f"{stats.followups:,} ({_percent(stats.followups / stats.requests)})"
    yield "footprint (distinct prefix tokens)", f"{stats.footprint_tokens:,}"
    yield "ideal prefix hit ratio", _percent(stats.ideal_hit_ratio)


def _percent(ratio: float) -> str:
    return f"{100 * ratio:.1f} %" if math.isfinite(ratio) else UNKNOWN


def _size(size_bytes: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= scale:
            return f"{size_bytes / scale:.1f} {unit}"
    return f"{size_bytes} B"

"""``harness capacity``: the highest rate that meets an SLO, by bisection with common random numbers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from harness.commands.parser import command_parser
from harness.exit_code import ExitCode
from harness.report.terminal import UNKNOWN, figure, table_console

if TYPE_CHECKING:
    from concurrent.futures import Future
    from typing import Any

    from rich.console import Console
    from rich.table import Table

    from harness.config import ExperimentConfig
    from harness.sweep.capacity import Probe, Search
    from harness.sweep.grid import GridCell

_EXAMPLE = """\
examples:
  python -m harness capacity slo=llama3_8b model=llama3_8b trace=generated trace.generate.requests=3000
  python -m harness capacity slo=llama2_70b model=llama3_70b trace=azure_conv_2023 --over tp=2,4,8 --plot capacity.png

Overrides are those of harness run; trace.rate is where the search begins. --over, or a knob with several values,
repeats it for each. 0.9 of the requests is what DistServe calls goodput; --attainment 0.99 is what MLPerf asks for.
"""
CAME = 0.9  # of the rate asked for; a trace of sessions that lasts too short cannot come any faster
SHORT = 20  # a trace that lasts fewer times the SLO's longest limit may end before a queue has grown


def main(argv: list[str]) -> ExitCode:
    """Find capacities.

    Returns:
        0; 1 where one was not found.
    """
    arguments = _parser().parse_intermixed_args(argv)

    from harness.report.figure import check_format
    from harness.report.table_file import check_out
    from harness.sweep.capacity import FIRST_RATE, Search, check
    from harness.sweep.grid import expand

    check_out(arguments.out)
    check_format(arguments.plot)
    console = table_console()
    cells = expand([*arguments.overrides, *arguments.over])
    for cell in cells:
        check(cell.config)
    searches = [
        Search(arguments.attainment, arguments.tolerance, cell.config.trace.rate or FIRST_RATE) for cell in cells
    ]
    common = _common(cells)
    names = [" ".join(cell.words) or common for cell in cells]
    slo = _slos(cells)
    console.print(f"Capacity: the highest rate at which {100 * arguments.attainment:.4g} % of the requests meet {slo}")
    errors = _search(cells, names, searches, arguments.workers, console)
    console.print(_table(cells, names, searches))
    for name, error in errors.items():
        console.print(f"{name}: {error}", style="red", markup=False, soft_wrap=True)
    _remarks(cells, names, searches, console)
    found = [(name, search) for name, search in zip(names, searches, strict=True) if search.probes]
    if found and arguments.out is not None:
        _save(found, arguments.out)
        console.print(f"Probes: {arguments.out}", markup=False)
    if found and arguments.plot is not None:
        from harness.sweep.capacity_plot import plot_attainment

        plot_attainment(found, f"{common}\n{slo}", arguments.plot)
        console.print(f"Plot: {arguments.plot}", markup=False)
    return ExitCode.OK if all(search.best and search.above for search in searches) else ExitCode.FAILED


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("capacity", "Find the highest rate at which enough requests meet the SLO.", _EXAMPLE)
    parser.add_argument("overrides", nargs="+", metavar="KNOB=VALUE", help="of the configuration; slo= is needed")
    parser.add_argument(
        "--over", action="append", default=[], metavar="KNOB=A,B", help="repeat the search for each of these values"
    )
    parser.add_argument(
        "--attainment", type=float, default=0.9, metavar="SHARE", help="of the requests that must meet the SLO (0.9)"
    )
    parser.add_argument("--tolerance", type=float, default=0.02, metavar="SHARE", help="of the rate (0.02)")
    parser.add_argument("--workers", type=int, metavar="N", help="searches at a time (as harness sweep)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="save every probe (.csv, .parquet)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="save attainment over the rate (.png, .svg, .pdf)")
    return parser


def _search(
    cells: list[GridCell], names: list[str], searches: list[Search], workers: int | None, console: Console
) -> dict[str, str]:
    """Carry out all searches side by side, a line for each probe; returns why some could not be."""
    from concurrent.futures import FIRST_COMPLETED, wait

    from harness.errors import USER_ERRORS
    from harness.sweep.capacity import ProbeTask, probe
    from harness.sweep.pool import default_workers
    from harness.workers import worker_pool

    errors: dict[str, str] = {}
    if workers is None:
        workers = min(default_workers(cell.config for cell in cells), len(cells))
    width = max(len(name) for name in names)
    with worker_pool(workers) as pool:
        running: dict[Future[Probe], int] = {}

        def begin(number: int) -> None:
            rate = searches[number].next_rate
            if rate is not None:
                running[pool.submit(probe, ProbeTask(cells[number].config, rate))] = number

        for number in range(len(cells)):
            begin(number)
        while running:
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                number = running.pop(future)
                try:
                    result = future.result()
                except USER_ERRORS as error:
                    if len(cells) == 1:
                        raise
                    errors[names[number]] = str(error)
                    continue
                searches[number].tell(result)
                said = "meets" if searches[number].meets(result) else "misses"
                console.print(
                    f"  {names[number]:<{width}}  {result.rate:9.4g} req/s  {result.attainment:7.2%}  {said}",
                    markup=False,
                )
                begin(number)
    return errors


def _table(cells: list[GridCell], names: list[str], searches: list[Search]) -> Table:
    from rich.table import Table

    from harness.sweep.capacity import limiting

    table = Table(title="capacity")
    table.add_column("run", no_wrap=True)
    headings = ("req/s", "95 % interval", "req/s a GPU", "SLO met", "output tok/s", "TTFT p99 ms", "TPOT p99 ms")
    for heading in (*headings, "what gives", "arrivals last s", "probes"):
        table.add_column(heading, justify="right", no_wrap=heading == "95 % interval")
    for cell, name, search in zip(cells, names, searches, strict=True):
        best, above, capacity = search.best, search.above, search.capacity
        if best is None:
            rate = "none" if above is None else f"< {above.rate:.3g}"
            table.add_row(name, rate, *[UNKNOWN] * 6, _word(limiting(above)), UNKNOWN, str(len(search.probes)))
            continue
        (low, high), lowest = search.interval(), min(probe.rate for probe in search.probes)
        table.add_row(
            name,
            f"> {best.rate:.3g}" if capacity is None else f"{capacity:.3g}",
            UNKNOWN if capacity is None else f"{'< ' if low <= lowest else ''}{low:.3g} to {high:.3g}",
            f"{(capacity or best.rate) / cell.config.tp:.3g}",
            f"{best.attainment:.1%}",
            figure(best.output_tokens_per_s, ",.0f"),
            figure(best.ttft_p99_s, ",.0f", 1e3),
            figure(best.tpot_p99_s, ",.0f", 1e3),
            _word(limiting(above)),
            f"{best.span_s:,.0f}",
            str(len(search.probes)),
        )
    return table


def _remarks(cells: list[GridCell], names: list[str], searches: list[Search], console: Console) -> None:
    from harness.metrics.slo import Slo

    target = f"{100 * searches[0].target:.4g} %"
    console.print(
        f"req/s: where the share that meets the SLO falls below {target}, between two rates that were tried; "
        "SLO met to TPOT p99: at the highest rate tried that met it.",
        soft_wrap=True,
    )
    console.print(
        "Interval: what chance in these requests leaves (blocks of them drawn anew), not how another day would differ.",
        soft_wrap=True,
    )
    for cell, name, search in zip(cells, names, searches, strict=True):
        best = search.best
        if best is None and search.above is not None:
            said = f"missed even at {search.above.rate:.3g} requests/s: not for want of capacity"
        elif best is not None and search.above is None:
            said = f"met even at {best.rate:.3g} requests/s: the trace is too short to fill the server"
        elif best is not None and best.came < CAME * best.rate:
            said = (
                f"only {best.came:.3g} of {best.rate:.3g} requests/s came, since turns wait for those before them: "
                "not a capacity; take a trace that lasts many times as long as a session"
            )
        elif best is not None and best.span_s < SHORT * max(Slo(**cell.config.slo).limits.values()):
            said = (
                f"all requests arrive within {best.span_s:.0f} s, before a queue has grown as it would: "
                "a longer trace carries less"
            )
        else:
            continue
        console.print(f"{name}: {said}", markup=False, soft_wrap=True, style="yellow")


def _save(searches: list[tuple[str, Search]], path: Path) -> None:
    import pandas as pd

    from harness.report.table_file import save_table
    from harness.sweep.capacity import frame

    save_table(pd.DataFrame(frame(searches)), path)


def _slos(cells: list[GridCell]) -> str:
    """What the requests have to meet, with its limits, where it is the same everywhere."""
    from harness.metrics.slo import Slo

    said = list(dict.fromkeys(str(Slo(**cell.config.slo)) for cell in cells))
    return said[0] if len(said) == 1 else "the SLO of each"


def _common(cells: list[GridCell]) -> str:
    """What all configurations share: the model, the hardware, and so on."""

    def parts(config: ExperimentConfig) -> tuple[Any, ...]:
        trace = config.trace.path or config.trace.name
        return (
            config.model.get("name"),
            config.hardware.get("name"),
            f"tp={config.tp}",
            config.policy.get("name"),
            trace,
        )

    told = zip(*(parts(cell.config) for cell in cells), strict=True)
    return ", ".join(str(values[0]) for values in told if len(set(values)) == 1)


def _word(limit: str | None) -> str:
    return UNKNOWN if limit is None else limit.removesuffix("_s").upper()

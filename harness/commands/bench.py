"""``harness bench``: how many requests and steps a second the simulator does, and where its time goes."""

from __future__ import annotations

import cProfile
import pstats
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from harness.commands.parser import command_parser
from harness.exit_code import ExitCode
from harness.report.terminal import table_console

if TYPE_CHECKING:
    from harness.simulator.simulation import Simulation
    from traces.schema import Trace

_EXAMPLE = """\
example:
  python -m harness bench
  python -m harness bench --requests 100000 --profile
  python -m harness bench --trace mooncake_conversation policy=radix model=qwen3_8b engine.max_context=131072

The default is 10,000 requests with the lengths of the Azure conversation trace (a lognormal likeness of them where the
trace was not fetched), Poisson 6/s, Llama-3.1-8B on one H100, chunked prefill of 2,048 tokens a step, 256 running.
"""
_DEFAULTS = (
    "model=llama3_8b",
    "policy=vllm",
    "policy.batching.step_tokens=2048",
    "engine.page_size=16",
)
_LENGTHS = "azure_conv_2023"


def main(argv: list[str]) -> ExitCode:
    """Run the benchmark.

    Returns:
        The exit code.
    """
    parser = command_parser("bench", __doc__, _EXAMPLE)
    parser.add_argument("--requests", type=int, default=10_000, help="of the generated trace (10000)")
    parser.add_argument("--rate", type=float, default=6.0, help="requests per second (6)")
    parser.add_argument("--trace", help="a trace by name or path instead of the generated one")
    parser.add_argument("--no-leap", action="store_true", help="run every decode step on its own")
    parser.add_argument("--profile", action="store_true", help="also run under the profiler")
    parser.add_argument("overrides", nargs="*", help="of the configuration, as for harness run")
    arguments = parser.parse_intermixed_args(argv)

    trace = _trace(arguments.trace, arguments.requests, arguments.rate)
    print(f"{trace.name}: {len(trace):,} requests, {trace.notes[0] if trace.notes else ''}")  # noqa: T201
    simulation = _simulation(trace, arguments.overrides, leap=not arguments.no_leap)
    began_s, cpu_s = time.perf_counter(), time.process_time()
    simulation.run(lambda _: True)
    cpu_s = time.process_time() - cpu_s
    _report(simulation, len(trace), time.perf_counter() - began_s, cpu_s)
    if arguments.profile:
        _profile(_simulation(trace, arguments.overrides, leap=not arguments.no_leap))
    return ExitCode.OK


def _trace(name: str | None, requests: int, rate: float) -> Trace:
    from traces.catalog import find
    from traces.generate import Distribution, SyntheticWorkload, generate
    from traces.load import load

    if name is not None:
        return load(name)
    likeness = SyntheticWorkload(
        requests=requests,
        rate=rate,
        input=Distribution("lognormal", mean=1160, cv=1.0, high=14_000),
        output=Distribution("lognormal", mean=212, cv=0.8, high=1000),
    )
    return generate(likeness, lengths_from=load(_LENGTHS) if find(_LENGTHS) else None)


def _simulation(trace: Trace, overrides: list[str], leap: bool) -> Simulation:
    from harness.backends.sim import server_model
    from harness.compose import compose
    from harness.simulator.simulation import Simulation
    from harness.workload import Workload
    from policies import build_policy

    config = compose([*_DEFAULTS, f"backend.leap={leap}", *overrides])
    return Simulation(Workload(trace), server_model(config), build_policy(config.policy))


def _report(simulation: Simulation, requests: int, wall_s: float, cpu_s: float) -> None:
    from rich.table import Table

    table = Table(title="simulator, one core")
    for column in ("requests/s", "steps/s", "steps", "simulated s", "wall s", "CPU s", "peak MB"):
        table.add_column(column, justify="right")
    steps = simulation.steps.steps
    # Kilobytes on Linux, bytes on macOS.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
    table.add_row(
        f"{requests / cpu_s:,.0f}",
        f"{steps / cpu_s:,.0f}",
        f"{steps:,}",
        f"{simulation.env.now:,.0f}",
        f"{wall_s:.2f}",
        f"{cpu_s:.2f}",
        f"{peak:,.0f}",
    )
    table_console().print(table)


def _profile(simulation: Simulation) -> None:
    """Own time by file. The profiler slows small functions most: trust the order more than the numbers."""
    from rich.table import Table

    profiler = cProfile.Profile()
    profiler.runcall(simulation.run, lambda _: True)
    by_file: dict[str, float] = {}
    for (file, _, _), (_, _, own_s, _, _) in pstats.Stats(profiler).stats.items():  # type: ignore[attr-defined]
        path = Path(file)
        name = "/".join(path.parts[-2:]) if path.suffix == ".py" else "built in (NumPy, lists, ...)"
        by_file[name] = by_file.get(name, 0.0) + own_s
    total_s = sum(by_file.values())
    table = Table(title="where its time goes")
    table.add_column("file")
    table.add_column("share of CPU time", justify="right")
    for name, own_s in sorted(by_file.items(), key=lambda item: -item[1])[:16]:
        table.add_row(name, f"{own_s / total_s:.1%}")
    table_console().print(table)

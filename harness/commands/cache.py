"""``harness cache TRACE``: hit-ratio curves of eviction policies, of the cache alone and without time."""

from __future__ import annotations

import argparse
import os
import time
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING

from harness.commands.parser import command_parser
from harness.exit_code import ExitCode
from harness.report.terminal import table_console

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from harness.cache.accesses import Accesses
    from harness.cache.lab import Cell, Spread
    from harness.cost.model import ModelShape
    from traces.schema import Trace

POLICIES = "lru,fifo,lfu,slru,lfuda,gdsf,two_q,arc,s3fifo,sieve,wtinylfu,lhd,session,belady"
STEPS = 8  # halvings of the distinct blocks, where no sizes are given
EXAMPLE = """\
example:
  python -m harness cache mooncake_conversation --policies lru,lfuda,s3fifo,belady:horizon=500 \\
      --sizes 1000,1500,2000 --sample 1/8 --seeds 3 --plot curves.png

A policy is NAME or NAME:PARAMETER=NUMBER:... (lru_k:k=3, gdsf:attention_tokens=16000), or a class of your own by its
dotted path. belady is the clairvoyant bound, belady:horizon=N the same with a view of N requests ahead.
"""


def main(argv: Sequence[str]) -> ExitCode:
    """Compare eviction policies on a trace.

    Args:
        argv: Arguments after ``cache``.

    Returns:
        The exit code.
    """
    arguments = _parser().parse_args(argv)

    from rich.progress import Progress

    from harness.cache.accesses import cut
    from harness.cache.errors import CacheError
    from harness.cache.lab import PolicySpec, compare, spreads
    from harness.cache.plot import plot_curves
    from harness.report.figure import check_format
    from harness.report.table_file import check_out
    from traces.load import load

    check_out(arguments.out)
    check_format(arguments.plot)
    console = table_console()
    if arguments.seeds < 1 or arguments.jobs < 1:
        raise CacheError(f"--seeds {arguments.seeds} --jobs {arguments.jobs}: expected 1 or more of each")
    policies = [PolicySpec.parse(text) for text in dict.fromkeys(arguments.policies.split(","))]
    model = _model(arguments.model)
    trace = load(arguments.trace)
    samples = [cut(sample, arguments.block) for sample in _samples(trace, arguments.sample, arguments.seeds)]
    sizes = _sizes(arguments.sizes, samples[0])
    said = (
        f"Trace {trace.name}: {len(samples[0]):,} requests, {len(samples[0].block):,} block accesses, "
        f"{samples[0].distinct:,} distinct blocks of {samples[0].block_size} tokens"
    )
    if arguments.sample:
        said += f" (of {arguments.sample} of the sessions, seed 0)"
    console.print(said, soft_wrap=True, markup=False)

    begun_s = time.perf_counter()
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("replaying", total=None)
        cells = compare(
            samples, policies, sizes, model, arguments.jobs, lambda done, of: bar.update(task, completed=done, total=of)
        )
    took_s = time.perf_counter() - begun_s
    titles = {
        "hit_ratio": "Prompt tokens found (%)",
        "of_belady": "Of the tokens that Belady's bound finds (%)",
        "flops_saved": f"Prefill operations saved (%), {model.name}",
    }
    for column, title in titles.items():
        over = f", mean of seeds 0 to {len(samples) - 1} ± half their spread" if len(samples) > 1 else ""
        console.print(f"{title}{over}", soft_wrap=True)
        console.print(_table(spreads(cells, column), sizes, len(samples)))
    console.print(f"{len(cells):,} cells in {took_s:.1f} s")
    if arguments.out is not None:
        _save(cells, samples[0].block_size, arguments.out)
        console.print(f"Cells: {arguments.out}", soft_wrap=True, markup=False)
    if arguments.plot is not None:
        share = f", {arguments.sample} of its sessions" if arguments.sample else ""
        plot_curves(cells, f"{trace.name}{share}: blocks of {samples[0].block_size} tokens", arguments.plot)
        console.print(f"Plot: {arguments.plot}", soft_wrap=True, markup=False)
    return ExitCode.OK


def _parser() -> argparse.ArgumentParser:
    parser = command_parser(
        "cache", "Replay the prefix cache alone, without time, for many eviction policies and sizes.", EXAMPLE
    )
    parser.add_argument("trace", metavar="TRACE", help="a file, or a name that `trace list` shows")
    parser.add_argument("--policies", default=POLICIES, metavar="A,B", help=f"eviction policies ({POLICIES})")
    parser.add_argument(
        "--sizes", metavar="N,M", help="cache sizes in blocks (from the longest prompt to half of the distinct blocks)"
    )
    parser.add_argument("--block", type=int, metavar="N", help="tokens a block (the trace's own)")
    parser.add_argument("--sample", metavar="1/8", help="only this share of the sessions, by a fixed hash")
    parser.add_argument("--seeds", type=int, default=1, metavar="N", help="so many samples, for an interval (1)")
    parser.add_argument("--model", default="qwen3_8b", metavar="M", help="whose prefill is saved: a name of conf/model")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="processes (all cores)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="save every cell (.csv, .parquet)")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="save the curves (.png, .svg, .pdf)")
    return parser


def _samples(trace: Trace, share: str | None, seeds: int) -> list[Trace]:
    from harness.cache.errors import CacheError
    from traces.transforms import sample

    if share is None:
        if seeds > 1:
            raise CacheError(
                f"--seeds {seeds}: the whole trace is one sample; say which share to draw, e.g. --sample 1/8"
            )
        return [trace]
    return [sample(trace, share, seed) for seed in range(seeds)]


def _sizes(text: str | None, accesses: Accesses) -> list[int]:
    from harness.cache.errors import CacheError

    if text is None:
        longest = int(-(-accesses.prompt_tokens.max() // accesses.block_size))
        halves = {int(float(f"{accesses.distinct / 2**step:.2g}")) for step in range(1, STEPS + 1)}
        return sorted({size for size in halves if size > longest}) or [longest]
    try:
        sizes = sorted({int(size) for size in text.split(",")})
    except ValueError:
        sizes = []
    if not sizes or sizes[0] < 1:
        raise CacheError(f"--sizes {text}: expected positive numbers of blocks, e.g. 1000,2000,4000")
    return sizes


def _model(name: str) -> ModelShape:
    import yaml  # type: ignore[import-untyped]

    from harness.cache.errors import CacheError
    from harness.config import conf_dir
    from harness.cost.model import ModelShape

    choices = {path.stem: path for path in sorted((conf_dir() / "model").glob("*.yaml"))}
    if name not in choices:
        raise CacheError(f"--model {name}: no such model. Choose one of {', '.join(choices)}")
    return ModelShape.from_config(yaml.safe_load(choices[name].read_text(encoding="utf-8")))


def _table(curves: dict[str, dict[int, Spread]], sizes: list[int], samples: int) -> Table:
    """A row for each policy, the best over all sizes first; Belady's bound and the unbounded cache below."""
    from rich.table import Table

    from harness.cache.lab import BELADY, UNBOUNDED

    table = Table()
    table.add_column("blocks", no_wrap=True)
    for size in sizes:
        table.add_column(f"{size:,}", justify="right", no_wrap=True)
    table.add_column("mean", justify="right", no_wrap=True)
    bounded = {name: [by_size[size] for size in sizes] for name, by_size in curves.items() if name != UNBOUNDED}
    means = {name: sum(spread.mean for spread in row) / len(row) for name, row in bounded.items()}
    best = [
        max((row[at].mean for name, row in bounded.items() if not name.startswith(BELADY)), default=0)
        for at in range(len(sizes))
    ]
    for name in sorted(bounded, key=lambda name: (name.startswith(BELADY), -means[name])):
        cells = [
            _cell(spread, samples, bold=spread.mean == top) for spread, top in zip(bounded[name], best, strict=True)
        ]
        table.add_row(name, *cells, f"{100 * means[name]:.1f}")
    (unbounded,) = curves[UNBOUNDED].values()
    if not isnan(unbounded.mean):
        table.add_section()
        table.add_row(UNBOUNDED, *[_cell(unbounded, samples, bold=False)] * len(sizes), "")
    return table


def _cell(spread: Spread, samples: int, *, bold: bool) -> str:
    mean, low, high = spread
    text = f"{100 * mean:.1f}"
    if samples > 1:
        text += f" ±{50 * (high - low):.1f}"
    return f"[bold]{text}[/]" if bold else text


def _save(cells: Sequence[Cell], block_size: int, path: Path) -> None:
    import pandas as pd

    from harness.cache.lab import Cell
    from harness.report.table_file import save_table

    frame = pd.DataFrame(cells, columns=list(Cell._fields))
    frame.insert(2, "size_tokens", frame["size_blocks"] * block_size)
    save_table(frame, path)

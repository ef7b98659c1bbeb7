"""Distributions of the latencies of several runs, one over the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.report.figure import COLOURS, DASHES, MARKERS, POINTS, duration, save

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from harness.metrics.schema import Array

MARKS = 8  # on a curve
TITLES = {
    "ttft_s": "Time to first token",
    "tpot_s": "Time per output token",
    "e2e_s": "End-to-end latency",
}


def plot_cdfs(runs: Mapping[str, Mapping[str, Array]], path: Path) -> None:
    """Overlaid cumulative distributions of TTFT, TPOT and E2E, a panel each with a logarithmic axis of time.

    Args:
        runs: By a run's name: by column (``ttft_s``, ``tpot_s``, ``e2e_s``) seconds [requests], NaN is null.
        path: The image; its suffix (.png, .svg, .pdf) says the format.

    Raises:
        PlotError: The format is unknown, or the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.6), dpi=120, facecolor="white", layout="constrained")
    panels: Sequence[Axes] = figure.subplots(1, len(TITLES), sharey=True)
    for axes, (column, title) in zip(panels, TITLES.items(), strict=True):
        _draw(axes, title, {name: values[column] for name, values in runs.items()})
    panels[0].set_ylabel("percentile of requests")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(len(labels), 3), frameon=False)
    save(figure, path)


def _draw(axes: Axes, title: str, values: Mapping[str, Array]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator

    share = np.linspace(0, 1, POINTS)
    for position, (name, column) in enumerate(values.items()):
        known = column[column > 0]  # a logarithm knows no zero, and NaN is not above it
        curve = np.quantile(known, share) if len(known) else np.full(POINTS, np.nan)
        axes.plot(  # runs that are nearly equal show through one another's gaps, and by marks that lie apart
            curve,
            share,
            DASHES[position % len(DASHES)],
            label=name,
            color=COLOURS[position % len(COLOURS)],
            linewidth=1.8,
            marker=MARKERS[position % len(MARKERS)],
            markersize=5,
            markevery=(position * POINTS // (MARKS * len(values)), POINTS // MARKS),
        )
    for level in (0.5, 0.9, 0.99):
        axes.axhline(level, color="#bbbbbb", linewidth=0.7, linestyle=":", zorder=0)
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    narrow = high < 10 * low  # powers of ten alone would label nothing
    axes.xaxis.set_major_locator(MaxNLocator(5) if narrow else LogLocator(subs=(1,), numticks=8))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda seconds, _: duration(seconds)))
    axes.xaxis.set_minor_locator(NullLocator() if narrow else LogLocator(subs=(2, 5), numticks=8))
    if high < 1000 * low:
        axes.xaxis.set_minor_formatter(axes.xaxis.get_major_formatter())
        axes.tick_params(axis="x", which="minor", labelsize="small", colors="#666666")
    axes.set_yticks([0, 0.25, 0.5, 0.75, 0.9, 0.99], ["0", "p25", "p50", "p75", "p90", "p99"])
    axes.set_ylim(0, 1.01)
    axes.set_title(title)
    axes.set_xlabel("time (log)")
    axes.grid(axis="x", color="#eeeeee")
    axes.spines[["top", "right"]].set_visible(False)

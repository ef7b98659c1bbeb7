"""Attainment of an SLO over the rate, a line for each configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness.report.figure import COLOURS, DASHES, save

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from harness.sweep.capacity import Search


def plot_attainment(searches: Sequence[tuple[str, Search]], title: str, path: Path) -> None:
    """Draw the share of the requests that meets the SLO at every rate tried, and each capacity.

    Args:
        searches: By name.
        title: Above.
        path: The image; its suffix (.png, .svg, .pdf) says the format.

    Raises:
        PlotError: The format is unknown, or the file cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    figure = Figure(figsize=(9, 5), dpi=120, facecolor="white", layout="constrained")
    axes = figure.subplots()
    for position, (name, search) in enumerate(searches):
        probes = sorted(search.probes, key=lambda probe: probe.rate)
        colour, dash = COLOURS[position % len(COLOURS)], DASHES[position // len(COLOURS) % len(DASHES)]
        rates, shares = [probe.rate for probe in probes], [100 * probe.attainment for probe in probes]
        axes.plot(rates, shares, dash, marker="o", markersize=3.5, color=colour, linewidth=1.6, label=name)
        if search.best is not None and search.above is not None:
            axes.axvspan(*search.interval(), color=colour, alpha=0.12, linewidth=0)
    target = 100 * searches[0][1].target
    axes.axhline(target, color="#888888", linewidth=1, linestyle=":")
    axes.annotate(
        f"{target:g} %", (1.0, target), xycoords=("axes fraction", "data"), xytext=(4, -3), textcoords="offset points"
    )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda rate, _: f"{rate:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("requests per second (log); bands: 95 % interval of the capacity")
    axes.set_ylabel("requests that meet the SLO (%)")
    axes.set_ylim(-2, 102)
    axes.set_title(title)
    axes.grid(color="#eeeeee")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower left", fontsize="small")
    save(figure, path)

"""Hit-ratio curves, drawn off screen."""

from __future__ import annotations

from math import isnan
from typing import TYPE_CHECKING

from harness.cache.lab import BELADY, UNBOUNDED, spreads
from harness.report.figure import COLOURS, DASHES, save

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from harness.cache.lab import Cell, Spread

PANELS = {
    "hit_ratio": "Prompt tokens found (%)",
    "of_belady": "Of what Belady's bound finds (%)",
    "flops_saved": "Prefill operations saved (%)",
}
LINES = COLOURS[:-1]  # black is the bound's
HEADROOM = 1.06
BANDS = 0.6  # opacity of all of them together


def plot_curves(cells: Sequence[Cell], title: str, path: Path) -> None:
    """Hit ratio over cache size, a line for each policy and a band over the samples.

    Args:
        cells: What was measured.
        title: Above the panels.
        path: The image; its suffix (.png, .svg, .pdf) says the format.

    Raises:
        PlotError: The format is unknown, or the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(16, 5.2), dpi=100, facecolor="white", layout="constrained")
    panels: Sequence[Axes] = figure.subplots(1, len(PANELS))
    for axes, (column, label) in zip(panels, PANELS.items(), strict=True):
        _draw(axes, spreads(cells, column))
        axes.set_ylabel(label)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    figure.suptitle(title)
    save(figure, path)


def _draw(axes: Axes, curves: dict[str, dict[int, Spread]]) -> None:
    from matplotlib.ticker import FuncFormatter, NullLocator

    curves = dict(curves)
    (unbounded,) = curves.pop(UNBOUNDED).values()
    most = 100 * unbounded.high
    if isnan(most):
        most = 100.0
    else:
        axes.axhline(100 * unbounded.mean, color="#888888", linewidth=1.2, linestyle=":", label=UNBOUNDED)
    # The legend reads from the best to the worst.
    order = sorted(curves, key=lambda name: -sum(spread.mean for spread in curves[name].values()))
    styles = {name: position for position, name in enumerate(name for name in curves if name != BELADY)}
    for name in order:
        by_size = curves[name]
        sizes = list(by_size)
        colour, dash, width = "#000000", "-", 2.2
        if name != BELADY:
            position = styles[name]
            colour, dash = LINES[position % len(LINES)], DASHES[position // len(LINES) % len(DASHES)]
            width = 1.6
        mean, low, high = ([100 * spread[part] for spread in by_size.values()] for part in range(3))
        axes.plot(sizes, mean, dash, marker="o", markersize=3, label=name, color=colour, linewidth=width)
        axes.fill_between(sizes, low, high, color=colour, alpha=min(BANDS / len(curves), 0.12), linewidth=0)
    ticks = sorted({size for by_size in curves.values() for size in by_size})
    axes.set_xscale("log")
    axes.set_xticks(ticks)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: _short(size)))
    axes.set_xlabel("cache size (blocks, log)")
    least = min(100 * spread.low for by_size in curves.values() for spread in by_size.values())
    axes.set_ylim(0.9 * least if least > most / 2 else 0, max(most * HEADROOM, 1.0))
    axes.grid(color="#eeeeee")
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _short(size: float) -> str:
    for scale, unit in ((1e6, "M"), (1e3, "k")):
        if size >= scale:
            return f"{size / scale:.3g}{unit}"
    return f"{size:g}"

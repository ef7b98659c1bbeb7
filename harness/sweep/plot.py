"""A heat map of a sweep: one metric over two knobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from harness.report.figure import save
from harness.report.sweep import load_cells, sweep_data

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

PREFERRED = ("goodput (requests per second)", "TTFT p99 (ms)")
DARK = 0.6  # of the colour scale: text on darker cells is white


def plot_sweep(directory: Path, path: Path) -> None:
    """Draw goodput, or TTFT where there is no SLO, over the two knobs that have the most values, seeds last.

    Where more knobs vary, a field shows the mean of its cells, as on the page of ``harness report``.

    Args:
        directory: Of the sweep.
        path: The image; its suffix (.png, .svg, .pdf) says the format.

    Raises:
        PlotError: The format is unknown, or the file cannot be written.
        RunError: No cell has ended.
    """
    from matplotlib.figure import Figure

    data = sweep_data(load_cells(directory), directory)
    metric, grid, (across, down), others = _grid(data)
    figure = Figure(figsize=(2.6 + 0.8 * grid.shape[1], 1.8 + 0.42 * grid.shape[0]), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.imshow(grid, cmap="viridis_r" if metric["smaller"] else "viridis", aspect="auto")
    axes.set_xticks(range(grid.shape[1]), across["values"], rotation=40 if _long(across) else 0)
    axes.set_yticks(range(grid.shape[0]), down["values"])
    axes.set_xlabel(across["name"])
    axes.set_ylabel(down["name"])
    axes.set_title(metric["label"] + (f"\nmean over {', '.join(others)}" if others else ""), fontsize="medium")
    share = (grid - np.nanmin(grid)) / max(float(np.nanmax(grid) - np.nanmin(grid)), 1e-12)
    light = (1 - share if metric["smaller"] else share) > DARK
    for (row, column), value in np.ndenumerate(grid):
        if not np.isnan(value):
            colour = "black" if light[row, column] else "white"
            axes.text(column, row, f"{value:.3g}", ha="center", va="center", color=colour)
    axes.spines[:].set_visible(False)
    save(figure, path)


def _grid(
    data: dict[str, Any],
) -> tuple[dict[str, Any], NDArray[np.float64], tuple[dict[str, Any], dict[str, Any]], list[str]]:
    """The metric, its mean by the values of two knobs [down, across], these, and the names of the other knobs."""
    labels = [metric["label"] for metric in data["metrics"]]
    chosen = next((labels.index(label) for label in PREFERRED if label in labels), 0)
    knobs = data["knobs"]
    order = sorted(range(len(knobs)), key=lambda at: (knobs[at]["name"].endswith("seed"), -len(knobs[at]["values"])))
    one = {"name": "", "values": [""]}
    across, down = ([knobs[knob] for knob in order] + [one, one])[:2]
    total, count = np.zeros((2, len(down["values"]), len(across["values"])))
    for cell in data["cells"]:
        value = cell["values"][chosen]
        if value is not None:
            at = tuple(cell["knobs"][knob] for knob in reversed(order[:2]))
            at = (0,) * (2 - len(at)) + at
            total[at] += value
            count[at] += 1
    grid = np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
    return data["metrics"][chosen], grid, (across, down), [knobs[knob]["name"] for knob in order[2:]]


def _long(knob: dict[str, Any]) -> bool:
    return max(len(value) for value in knob["values"]) > 6

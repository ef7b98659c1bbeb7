"""A heat map of a sweep: one metric over two knobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from harness.report.plots import PlotError, check_format
from harness.report.sweep import load_cells, sweep_data

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

PREFERRED = ("goodput (requests per second)", "TTFT p99 (ms)")
DARK = 0.6  # of the colour scale: text on darker cells is white


def plot_sweep(directory: Path, path: Path) -> None:
    """Draw goodput, or TTFT where there is no SLO, over the two knobs that have the most values.

    Where more knobs vary, a field shows the best of its cells.

    Args:
        directory: Of the sweep.
        path: The image; its suffix (.png, .svg, .pdf) says the format.

    Raises:
        PlotError: The format is unknown, or the file cannot be written.
        RunError: No cell has ended.
    """
    from matplotlib.figure import Figure

    check_format(path)
    data = sweep_data(load_cells(directory), directory)
    metric, grid, (across, down) = _grid(data)
    figure = Figure(figsize=(2.6 + 0.8 * grid.shape[1], 1.8 + 0.42 * grid.shape[0]), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.imshow(grid, cmap="viridis_r" if metric["smaller"] else "viridis", aspect="auto")
    axes.set_xticks(range(grid.shape[1]), across["values"], rotation=40 if _long(across) else 0)
    axes.set_yticks(range(grid.shape[0]), down["values"])
    axes.set_xlabel(across["name"])
    axes.set_ylabel(down["name"])
    axes.set_title(metric["label"], fontsize="medium")
    share = (grid - np.nanmin(grid)) / max(float(np.nanmax(grid) - np.nanmin(grid)), 1e-12)
    light = (1 - share if metric["smaller"] else share) > DARK
    for (row, column), value in np.ndenumerate(grid):
        if not np.isnan(value):
            colour = "black" if light[row, column] else "white"
            axes.text(column, row, f"{value:.3g}", ha="center", va="center", color=colour)
    axes.spines[:].set_visible(False)
    try:
        figure.savefig(path)
    except OSError as error:
        raise PlotError(f"{path}: cannot be written ({error.strerror or error})") from error


def _grid(data: dict[str, Any]) -> tuple[dict[str, Any], NDArray[np.float64], tuple[dict[str, Any], dict[str, Any]]]:
    """The metric, its best value by the values of two knobs [down, across], and these."""
    labels = [metric["label"] for metric in data["metrics"]]
    chosen = next((labels.index(label) for label in PREFERRED if label in labels), 0)
    metric = data["metrics"][chosen]
    order = sorted(range(len(data["knobs"])), key=lambda knob: -len(data["knobs"][knob]["values"]))
    one = {"name": "", "values": [""]}
    across, down = ([data["knobs"][knob] for knob in order] + [one, one])[:2]
    grid = np.full((len(down["values"]), len(across["values"])), np.nan)
    better = np.fmin if metric["smaller"] else np.fmax
    for cell in data["cells"]:
        at = tuple(cell["knobs"][knob] for knob in reversed(order[:2]))
        at = (0,) * (2 - len(at)) + at
        value = cell["values"][chosen]
        grid[at] = better(grid[at], np.nan if value is None else value)
    return metric, grid, (across, down)


def _long(knob: dict[str, Any]) -> bool:
    return max(len(value) for value in knob["values"]) > 6

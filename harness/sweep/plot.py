"""A heat map of a sweep: one metric over two knobs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness.metrics.student import estimate
from harness.report.figure import save
from harness.report.replicates import Setting, method, settings_of
from harness.report.sweep import METRICS, Metric, load_cells
from harness.report.sweep_page import values_of

PREFERRED = ("goodput (requests per second)", "TTFT p99 (ms)")
LETTERS = 11  # an inch of a title has
DARK = 0.6  # of the colour scale: text on darker cells is white


class Axis(NamedTuple):
    """A knob and its values, in order."""

    name: str
    values: list[str]


class HeatMap(NamedTuple):
    """What is drawn.

    Attributes:
        metric: Of which
        means: float64 [down, across], over whatever else varies; NaN is unknown.
        halves: Half of each mean's 95 % interval over the seeds, likewise; NaN where there is none.
        across: The knob of the columns.
        down: The knob of the rows.
        others: Knobs that are averaged over, but for seeds.
    """

    metric: Metric
    means: NDArray[np.float64]
    halves: NDArray[np.float64]
    across: Axis
    down: Axis
    others: list[str]


def plot_sweep(directory: Path, path: Path) -> None:
    """Draw goodput, or TTFT where there is no SLO, over the two knobs that have the most values.

    Where seeds vary, a field shows the mean over them and its interval; where more knobs vary, the mean over those too.

    Args:
        directory: Of the sweep.
        path: The image; its suffix (.png, .svg, .pdf) says the format.

    Raises:
        PlotError: The format is unknown, or the file cannot be written.
        RunError: No cell has ended.
    """
    from matplotlib.figure import Figure

    settings, seeds = settings_of(load_cells(directory))
    heat = heat_map(settings)
    grid, smaller = heat.means, heat.metric.smaller_is_better
    wide, high = (0.95, 0.62) if seeds else (0.8, 0.42)
    size = (2.6 + wide * max(grid.shape[1], 3), 1.8 + high * grid.shape[0])
    figure = Figure(figsize=size, dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.imshow(grid, cmap="viridis_r" if smaller else "viridis", aspect="auto")
    axes.set_xticks(range(grid.shape[1]), heat.across.values, rotation=40 if _long(heat.across) else 0)
    axes.set_yticks(range(grid.shape[0]), heat.down.values)
    axes.set_xlabel(heat.across.name)
    axes.set_ylabel(heat.down.name)
    said = [
        *([method(settings, seeds)] if seeds else []),
        *([f"mean over {', '.join(heat.others)}"] * bool(heat.others)),
    ]
    axes.set_title("\n".join([heat.metric.label, *wrap(", ".join(said), int(LETTERS * size[0]))]), fontsize="medium")
    share = (grid - np.nanmin(grid)) / max(float(np.nanmax(grid) - np.nanmin(grid)), 1e-12)
    light = (1 - share if smaller else share) > DARK
    for (row, column), value in np.ndenumerate(grid):
        if not np.isnan(value):
            half = heat.halves[row, column]
            text = f"{value:.3g}" + ("" if np.isnan(half) else f"\n±{half:.2g}")
            axes.text(column, row, text, ha="center", va="center", color="black" if light[row, column] else "white")
    axes.spines[:].set_visible(False)
    save(figure, path)


def heat_map(settings: Sequence[Setting]) -> HeatMap:
    """The metric that is most wanted, by the two knobs that have the most values."""
    known = [metric for metric in METRICS if any(setting.figures(metric.path) for setting in settings)]
    metric = next((each for label in PREFERRED for each in known if each.label == label), known[0])
    knobs = sorted((Axis(*knob) for knob in values_of(settings).items()), key=lambda knob: -len(knob.values))
    across, down = [*knobs, Axis("", [""]), Axis("", [""])][:2]
    means, halves = np.full((2, len(down.values), len(across.values)), np.nan)
    for row, column in np.ndindex(means.shape):
        wanted = {down.name: down.values[row], across.name: across.values[column]}
        inside = [each for each in settings if all(each.knobs.get(knob, "") == word for knob, word in wanted.items())]
        by_seeds: dict[tuple[str, ...], list[float]] = {}
        for setting in inside:
            for seeds, value in setting.figures(metric.path).items():
                by_seeds.setdefault(seeds, []).append(value * metric.scale)
        if by_seeds:
            found = estimate([float(np.mean(values)) for values in by_seeds.values()])
            means[row, column] = found.mean
            halves[row, column] = np.nan if found.half is None else found.half
    return HeatMap(metric, means, halves, across, down, [knob.name for knob in knobs[2:]])


def _long(knob: Axis) -> bool:
    return max(len(value) for value in knob.values) > 6

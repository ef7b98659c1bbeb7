"""Pictures of a validation: distributions over each other, and quantiles against quantiles."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from harness.metrics.schema import ended_ok
from harness.report.figure import COLOURS, save
from harness.report.latency_plot import TITLES, plot_cdfs
from harness.validate.recording import Recording

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_QUANTILES = np.concatenate([np.linspace(0.01, 0.9, 90), np.linspace(0.905, 0.995, 19)])


def plot_distributions(runs: dict[str, Recording], path: Path) -> None:
    """Cumulative distributions of TTFT, TPOT and E2E.

    Raises:
        PlotError: The file cannot be written.
    """
    plot_cdfs({name: _latencies(run) for name, run in runs.items()}, path)


def plot_quantiles(real: list[Recording], twins: dict[str, Recording], path: Path) -> None:
    """Quantiles of each twin over those of the real runs, and of the other real runs over the first one's.

    Args:
        real: The real server's runs.
        twins: By name.
        path: The image.

    Raises:
        PlotError: The file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.6), dpi=120, facecolor="white", layout="constrained")
    first = _latencies(real[0])
    panels = figure.subplots(1, len(TITLES))
    for axes, (column, title) in zip(panels, TITLES.items(), strict=True):
        base = _quantiles(first[column])
        for position, other in enumerate(real[1:]):
            label = "real, repeated" if position == 0 else None
            axes.plot(base, _quantiles(_latencies(other)[column]), ".", color="#bbbbbb", markersize=4, label=label)
        for position, (name, twin) in enumerate(twins.items()):
            colour = COLOURS[position % len(COLOURS)]
            axes.plot(base, _quantiles(_latencies(twin)[column]), ".", color=colour, markersize=4, label=name)
        _diagonal(axes)
        axes.set_title(title)
        axes.set_xlabel("real server, ms")
    panels[0].set_ylabel("quantiles, ms")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=max(len(labels), 1), frameon=False)
    save(figure, path)


def _diagonal(axes: Axes) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    low = min(axes.get_xlim()[0], axes.get_ylim()[0])
    high = max(axes.get_xlim()[1], axes.get_ylim()[1])
    axes.plot([low, high], [low, high], color="#888888", linewidth=0.8, zorder=0)
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    axes.spines[["top", "right"]].set_visible(False)


def _latencies(recording: Recording) -> dict[str, np.ndarray[tuple[int], np.dtype[np.float64]]]:
    columns = recording.run.columns
    rows = ended_ok(columns) & (columns["warmup"] == 0)
    return {column: columns[column][rows] for column in TITLES}


def _quantiles(seconds: np.ndarray[tuple[int], np.dtype[np.float64]]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    known = seconds[~np.isnan(seconds)]
    return np.quantile(known, _QUANTILES) * 1e3 if len(known) else np.full(len(_QUANTILES), np.nan)

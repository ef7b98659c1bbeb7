"""A trace in three panels: arrivals over time, lengths, and the ideal prefix hit ratio by window."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.report.figure import COLOURS, POINTS, duration, save

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

    from traces.schema import Trace
    from traces.stats import Stats

BINS_S = (0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21_600, 86_400)
MOST_BINS = 150  # of the arrivals, over the whole trace
HEADROOM = 1.2  # above the data, for the legend


def plot_trace(trace: Trace, stats: Stats, path: Path) -> None:
    """Draw a trace and save the image.

    Args:
        trace: The requests.
        stats: What :func:`traces.stats.describe` says of them.
        path: The image; its suffix (.png, .svg, .pdf) says the format.

    Raises:
        PlotError: The format is unknown, or the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(13, 4.4), dpi=120, facecolor="white", layout="constrained")
    arrivals, lengths, hits = figure.subplots(1, 3)
    _draw_arrivals(arrivals, trace, stats)
    _draw_lengths(lengths, trace)
    _draw_hits(hits, stats)
    for axes in (arrivals, lengths, hits):
        axes.grid(color="#eeeeee")
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(f"{trace.name}: {stats.requests:,} requests, {stats.prompt_tokens:,} prompt tokens")
    save(figure, path)


def _draw_arrivals(axes: Axes, trace: Trace, stats: Stats) -> None:
    span = max(stats.duration_s, 1e-3)
    scale, unit = _time_unit(span)
    width = next((width for width in BINS_S if span <= MOST_BINS * width), BINS_S[-1])
    since = trace.arrival_s - trace.arrival_s[0]
    edges = np.arange(int(span // width) + 2) * width
    rate = np.histogram(since, bins=edges)[0] / width
    axes.stairs(rate, edges / scale, fill=True, color=COLOURS[0], alpha=0.35)
    axes.stairs(rate, edges / scale, color=COLOURS[0], linewidth=1.0)
    if np.isfinite(stats.rate):
        axes.axhline(stats.rate, color=COLOURS[1], linewidth=1.4, label=f"mean {stats.rate:.2f}/s")
        axes.legend(frameon=False, loc="upper right")
    axes.set_ylim(0, rate.max() * HEADROOM)
    axes.set_title(f"Arrivals, by {_length(width)}")
    axes.set_xlabel(f"time ({unit})")
    axes.set_ylabel("requests per second")


def _draw_lengths(axes: Axes, trace: Trace) -> None:
    share = np.linspace(0, 1, POINTS)
    columns = {"prompt": trace.prompt_tokens, "output": trace.output_tokens}
    for colour, style, (name, tokens) in zip(COLOURS, ("-", "--"), columns.items(), strict=False):
        label = f"{name}, median {np.median(tokens):,.0f}"
        axes.plot(np.quantile(tokens, share), share * 100, style, color=colour, linewidth=1.8, label=label)
    axes.set_xscale("log")
    axes.set_ylim(0, 100 * HEADROOM)
    axes.set_yticks(range(0, 101, 20))
    axes.set_title("Lengths")
    axes.set_xlabel("tokens (log)")
    axes.set_ylabel("requests no longer than this (%)")
    axes.legend(frameon=False, loc="upper left")


def _draw_hits(axes: Axes, stats: Stats) -> None:
    axes.set_title(f"Ideal prefix hit ratio, by {_length(stats.window_s)}")
    axes.set_ylabel("prompt tokens cached (%)")
    if not stats.has_blocks:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.text(0.5, 0.5, "the source names no prefixes", ha="center", transform=axes.transAxes)
        return
    scale, unit = _time_unit(max(stats.duration_s, 1e-3))
    left = stats.window_start_s / scale
    ratio = stats.window_hit_ratio * 100
    axes.bar(left, ratio, width=stats.window_s / scale * 0.94, align="edge", color=COLOURS[2], alpha=0.6)
    total = 100 * stats.ideal_hit_ratio
    axes.axhline(total, color=COLOURS[1], linewidth=1.4, label=f"whole trace {total:.1f} %")
    axes.set_ylim(0, max(1.0, np.nanmax(ratio)) * HEADROOM)
    axes.set_xlabel(f"time ({unit})")
    axes.legend(frameon=False, loc="upper left")


def _time_unit(span_s: float) -> tuple[float, str]:
    """Seconds of the unit that a person would use for a span, and its name."""
    for scale, unit in ((86_400.0, "days"), (3600.0, "h"), (60.0, "min")):
        if span_s >= 3 * scale:
            return scale, unit
    return 1.0, "s"


def _length(window_s: float) -> str:
    return duration(window_s) if window_s < 60 or window_s % 60 else f"{window_s / 60:g} min"

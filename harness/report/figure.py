"""What all plots have in common: colours, a figure drawn off screen, and how it is saved."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")  # Okabe and Ito
DASHES = ("-", "--", "-.", ":")
MARKERS = ("o", "s", "^", "D", "v")  # as many as share no factor with the dashes: the pairs differ the longer
POINTS = 2000  # of a curve, whatever the number of requests
FORMATS = (".png", ".svg", ".pdf")


class PlotError(ValueError):
    """A plot that cannot be drawn or saved; the message says why."""


def check_format(path: Path | None) -> None:
    """See whether a plot could be saved as this, before the work that it is to show; None is no plot.

    Raises:
        PlotError: Its suffix says no format.
    """
    if path is not None and path.suffix.lower() not in FORMATS:
        raise PlotError(f"{path}: cannot save a plot as {path.suffix or 'that'!r}; end it in .png, .svg or .pdf")


def save(figure: Figure, path: Path) -> None:
    """Save a figure.

    Args:
        figure: What is drawn.
        path: The image; its suffix (.png, .svg, .pdf) says the format.

    Raises:
        PlotError: The suffix says no format, or the file cannot be written.
    """
    check_format(path)
    try:
        figure.savefig(path)
    except OSError as error:
        raise PlotError(f"{path}: cannot be written ({error.strerror or error})") from error


def duration(seconds: float) -> str:
    """A tick's label in the unit that a person would use: 10 ms, 2 s."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:g} µs"
    return f"{seconds * 1e3:g} ms" if seconds < 1 else f"{seconds:g} s"

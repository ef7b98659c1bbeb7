"""One request's life as a waterfall: what it waited for, one stage below the other."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.metrics.stages import STAGES
from harness.report.figure import COLOURS, duration

if TYPE_CHECKING:
    from collections.abc import Mapping

    from matplotlib.axes import Axes

_COLOURS = {"queue": COLOURS[4], "prefill": COLOURS[1], "decode": COLOURS[2]}  # the others are messages' ways


def stages(request: Mapping[str, Any]) -> list[tuple[str, float, float]]:
    """What a request waited for, from its arrival on.

    Args:
        request: A row of the request table; moments that are null are left out, and their stage with them.

    Returns:
        Name, beginning and end of each stage, seconds after the request's arrival.
    """
    arrival_s = float(request["arrival_s"])
    found, before_s = [], 0.0
    for name, _, end in STAGES:
        end_s = float(request[end]) - arrival_s
        if end_s == end_s:
            found.append((name, before_s, end_s))
            before_s = end_s
    return found


def draw_waterfall(axes: Axes, request: Mapping[str, Any]) -> None:
    """Draw the stages of one request, with their durations.

    Args:
        axes: Where to draw.
        request: A row of the request table.
    """
    found = stages(request)
    total_s = max(end_s for _, _, end_s in found)
    for row, (name, start_s, end_s) in enumerate(found):
        width = max(end_s - start_s, 0.002 * total_s)  # the shortest can still be seen
        axes.barh(row, width * 1e3, 0.7, left=start_s * 1e3, color=_COLOURS.get(name, COLOURS[0]))
        axes.annotate(
            duration(float(f"{end_s - start_s:.2g}")),
            ((start_s + width) * 1e3, row),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize="small",
        )
    axes.set_yticks(range(len(found)), [name for name, _, _ in found])
    axes.invert_yaxis()
    axes.set_xlim(0, total_s * 1e3 * 1.12)
    axes.set_xlabel("time since the request's arrival (ms)")

"""The radix tree of the prefix cache, drawn along the positions of its tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.report.figure import COLOURS

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes

    from runtime.scheduler.prefix.base import Node
    from runtime.scheduler.sequence import TokenIds

_HEIGHT = 0.56  # of an edge, in lanes
_LOCKED, _EVICTABLE = COLOURS[1], COLOURS[0]


def draw_prefix_tree(axes: Axes, root: Node, text: Callable[[TokenIds], str]) -> None:
    """Draw each edge as a bar from its first token to its last, the ids of its pages below it, a lane for each leaf.

    Args:
        axes: Where to draw.
        root: Of the tree.
        text: What to write on an edge: of its token ids, int32.
    """
    lanes = _lanes(root)
    for node, lane in lanes.items():
        if node.parent is None:
            continue
        start, colour = node.parent.end, _LOCKED if node.locks else _EVICTABLE
        above = lanes[node.parent]
        if above != lane:
            axes.plot([start, start], [above, lane], color="#555555", linewidth=1.2, zorder=1)
        width = node.end - start
        axes.barh(lane, width, _HEIGHT, left=start, color=colour, alpha=0.25, edgecolor=colour, linewidth=1.4, zorder=2)
        axes.text(start + width / 2, lane, text(np.frombuffer(node.key, np.int32)), ha="center", va="center", zorder=3)
        said = f"pages {', '.join(map(str, node.held.tolist()))}" + (f"; read by {node.locks}" if node.locks else "")
        axes.text(start + width / 2, lane + _HEIGHT / 2, said, ha="center", va="top", fontsize="x-small", zorder=3)
    rows = max(lanes.values(), default=0) + 1
    axes.set_ylim(rows - 0.3, -0.6)
    axes.set_xlim(left=-0.5)
    axes.set_yticks([])
    axes.set_xlabel("position in the prompt (tokens)")
    axes.grid(visible=False)
    axes.spines["left"].set_visible(False)


def _lanes(root: Node) -> dict[Node, float]:
    """A lane for each leaf in order, and each other node in its first child's."""
    lanes: dict[Node, float] = {}
    free = 0

    def place(node: Node) -> float:
        nonlocal free
        if node.children:
            lanes[node] = min([place(child) for child in node.children.values()])
        else:
            lanes[node] = free
            free += 1
        return lanes[node]

    place(root)
    return lanes

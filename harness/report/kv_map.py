"""KV memory as a map: which request holds which page, step by step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from harness.report.figure import COLOURS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from matplotlib.axes import Axes

    from harness.metrics.schema import Array
    from runtime.scheduler import Scheduler
    from runtime.scheduler.prefix.base import Node

FREE, CACHED, SHARED, LEAVING = -1, -2, -3, -4
_OTHERS = {
    FREE: ("free", "#f4f4f4"),
    CACHED: ("cached, evictable", "#bdbdbd"),
    SHARED: ("shared by several", "#4d4d4d"),
    LEAVING: ("on its way back", "#ffffff"),
}


def page_owners(scheduler: Scheduler) -> Array:
    """Who holds each page now.

    Args:
        scheduler: With a radix cache or none.

    Returns:
        int64 [pages]: the request id of the one running sequence that reads the page; SHARED where several do; CACHED
        where only the prefix cache holds it; FREE; LEAVING where a step in flight still refers to it.
    """
    memory = scheduler.memory
    owners = np.full(memory.pool.pages, LEAVING, dtype=np.int64)
    owners[memory.pool.free_pages()] = FREE
    for node in _nodes(getattr(memory.cache, "root", None)):
        owners[node.held] = CACHED
    readers = np.zeros(memory.pool.pages, dtype=np.int64)
    for sequence in scheduler.unfinished():
        held = memory.table[sequence.row, : sequence.held_pages]
        owners[held] = sequence.request_id
        readers[held] += 1
    owners[readers > 1] = SHARED
    return owners


def draw_kv_map(axes: Axes, owners: Sequence[Array]) -> None:
    """Draw the pages over the steps, a column a step, a colour for each request.

    Args:
        axes: Where to draw.
        owners: By step, as :func:`page_owners` gives it; request ids take the colours in turn.
    """
    from matplotlib.colors import to_rgb
    from matplotlib.patches import Patch

    grid = np.array(owners).T  # [pages, steps]
    image = np.ones((*grid.shape, 3))
    handles = []
    for owner in [*sorted(set(grid[grid >= 0].tolist())), *_OTHERS]:
        label, colour = _OTHERS.get(owner) or (f"request {owner}", COLOURS[owner % len(COLOURS)])
        if (grid == owner).any():
            image[grid == owner] = to_rgb(colour)
            handles.append(Patch(facecolor=colour, edgecolor="#888888", linewidth=0.5, label=label))
    pages, steps = grid.shape
    axes.imshow(
        image, aspect="auto", origin="lower", interpolation="none", extent=(-0.5, steps - 0.5, -0.5, pages - 0.5)
    )
    axes.set_xticks(np.arange(-0.5, steps), minor=True)
    axes.set_yticks(np.arange(-0.5, pages), minor=True)
    axes.grid(visible=False, which="major")
    axes.grid(which="minor", color="white", linewidth=0.6)
    axes.tick_params(which="minor", length=0)
    axes.set_xlabel("step")
    axes.set_ylabel("page of KV memory")
    axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.01, 1), frameon=False, borderaxespad=0)


def _nodes(root: Node | None) -> Iterator[Node]:
    """Every node of a prefix tree but the root."""
    waiting = [] if root is None else list(root.children.values())
    while waiting:
        node = waiting.pop()
        yield node
        waiting.extend(node.children.values())

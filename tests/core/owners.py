"""An engine that sees to it, for each step, that the pages it is to read and write are its sequences' own."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.engine.engine import Engine, StepResult
from runtime.engine.params import SamplingParams
from runtime.scheduler import Batch, Scheduler, Sequence
from runtime.scheduler.prefix import Node, RadixCache

PageIds = npt.NDArray[np.int32]


class OwnedPages(Engine[Any]):
    """Checks each batch as it is launched against who holds which page by the scheduler, then hands it on.

    Args:
        engine: Runs the steps.
        scheduler: Plans them.
        forget: Called before each launch with the pages that are free: their KV may be destroyed, behind the steps
            launched so far.

    Attributes:
        steps: Steps checked.
    """

    def __init__(self, engine: Engine[Any], scheduler: Scheduler, forget: Callable[[PageIds], None]) -> None:
        self._engine = engine
        self._scheduler = scheduler
        self._forget = forget
        self.steps = 0

    def admit(self, request_id: int, params: SamplingParams) -> None:
        self._engine.admit(request_id, params)

    def forget(self, request_id: int) -> None:
        self._engine.forget(request_id)

    def launch(self, batch: Batch) -> Any:
        self._check(batch)
        self._forget(self._scheduler.memory.pool.free_pages())
        self.steps += 1
        return self._engine.launch(batch)

    def collect(self, ticket: Any) -> StepResult:
        return self._engine.collect(ticket)

    def close(self) -> None:
        self._engine.close()

    def _check(self, batch: Batch) -> None:
        memory, page_size = self._scheduler.memory, self._scheduler.config.page_size
        free = set(memory.pool.free_pages().tolist())
        cached = _cached(memory.cache) if isinstance(memory.cache, RadixCache) else set()
        ends = [(chunk.sequence, chunk.start + chunk.tokens) for chunk in batch.chunks]
        ends += [(sequence, position + 1) for sequence, position in zip(batch.decodes, batch.positions, strict=True)]
        rows = Counter(sequence.row for sequence, _ in ends)
        assert max(rows.values()) == 1, f"step {batch.step}: two sequences in a row of the page table: {rows}"
        own: Counter[int] = Counter()
        for sequence, end in ends:
            pages = memory.table[sequence.row, : -(-end // page_size)].tolist()
            shared = sequence.cached // page_size
            prefix = _locked(sequence)[:shared]
            assert pages[:shared] == prefix[: len(pages)], f"step {batch.step}: {sequence} reads another's prefix"
            assert not cached.intersection(pages[shared:]), f"step {batch.step}: {sequence} writes to cached pages"
            assert not free.intersection(pages), f"step {batch.step}: {sequence} uses free pages"
            own.update(pages[shared:])
        assert not own or max(own.values()) == 1, f"step {batch.step}: two sequences own a page"


def _locked(sequence: Sequence) -> list[int]:
    """The pages of a sequence's cached prefix, all of which it locks."""
    pages: list[int] = []
    node: Node | None = sequence.node
    while node is not None and node.parent is not None:
        assert node.locks > 0, f"{sequence} reads a prefix that may be evicted"
        pages = node.held.tolist() + pages
        node = node.parent
    return pages


def _cached(cache: RadixCache) -> set[int]:
    """All pages of the prefix cache."""
    pages: set[int] = set()
    rest = [cache.root]
    while rest:
        node = rest.pop()
        pages.update(node.held.tolist())
        rest.extend(node.children.values())
    return pages

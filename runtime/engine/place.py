"""Where an engine is built: what the worker that builds it knows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from runtime.scheduler import SchedulerConfig


@dataclass(frozen=True, slots=True)
class EnginePlace:
    """What an engine factory gets besides its options.

    Attributes:
        scheduler: Sizes.
        table: The scheduler's page table, (max_running, max_row_pages) int32: it changes under the engine's eyes,
            and is read at each launch.
        rank: Tensor-parallel rank of this worker.
        tp: How many there are.
        rendezvous: URL by which the ranks find each other, for ``torch.distributed``.
    """

    scheduler: SchedulerConfig
    table: npt.NDArray[np.int32]
    rank: int
    tp: int
    rendezvous: str

"""Where an engine is built: what the worker that builds it knows, and what it gets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.engine.engine import Engine
from runtime.scheduler import SchedulerConfig


@dataclass(frozen=True, slots=True)
class EnginePlace:
    """What an engine factory gets besides its options.

    Attributes:
        scheduler: Sizes; the engine may have room for fewer pages.
        step_tokens: The most prompt tokens in a step.
        rank: Tensor-parallel rank of this worker.
        tp: How many there are.
        rendezvous: URL by which the ranks find each other, for ``torch.distributed``.
    """

    scheduler: SchedulerConfig
    step_tokens: int
    rank: int
    tp: int
    rendezvous: str


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    """What an engine factory makes: a model in its place, and how large a scheduler may be beside it.

    Attributes:
        scheduler: Sizes; the same on every rank.
        start: Makes the engine over the scheduler's page table, (max_running, max_row_pages) int32: it changes under
            the engine's eyes, and is read at each launch.
    """

    scheduler: SchedulerConfig
    start: Callable[[npt.NDArray[np.int32]], Engine[Any]]

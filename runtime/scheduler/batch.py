"""What one step of the engine runs, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from runtime.scheduler.sequence import Sequence


class Chunk(NamedTuple):
    """Part of a sequence's prompt.

    Attributes:
        sequence: Whose.
        start: Position of the chunk's first token.
        tokens: How many.
        samples: Whether the prompt ends here, so that the next token is sampled.
    """

    sequence: Sequence
    start: int
    tokens: int
    samples: bool


class Snapshot(NamedTuple):
    """The scheduler's state when it had planned a step.

    Attributes:
        waiting: Sequences queued.
        running: Sequences admitted.
        free_pages: Pages that hold nothing.
        evictable_pages: Pages that only the prefix cache holds.
        evicted_pages: Pages evicted to plan this step.
        preempted: Sequences preempted to plan this step.
    """

    waiting: int
    running: int
    free_pages: int
    evictable_pages: int
    evicted_pages: int
    preempted: int


@dataclass(slots=True)
class Batch:
    """One step: a chunk each of some prompts, one token each of some decoding sequences.

    KV of position ``p`` of a sequence goes to slot ``page_table[row, p // page_size] * page_size + p % page_size`` of
    the scheduler's page table, which holds until the step is committed.

    Attributes:
        step: Number of the step, counting up from 0.
        chunks: Prefill, in order.
        decodes: Decode, in order; each computes the token at the position of the same index in ``positions``.
        positions: See ``decodes``.
        admitted: Sequences admitted for the first time in this step.
        snapshot: The scheduler's state.
        shared_tokens: Of KV in pages that several sequences hold, counted once less than they do: what the device reads
            again.
    """

    step: int
    chunks: list[Chunk]
    decodes: list[Sequence]
    positions: list[int]
    admitted: list[Sequence]
    snapshot: Snapshot
    shared_tokens: int = 0

    @property
    def samples(self) -> int:
        """How many tokens this step samples."""
        return sum([chunk.samples for chunk in self.chunks]) + len(self.decodes)

    def sampled(self) -> list[Sequence]:
        """The sequences whose next token this step samples, in the order of its tokens."""
        return [chunk.sequence for chunk in self.chunks if chunk.samples] + self.decodes


@dataclass(slots=True)
class StepOutputs:
    """What a committed step produced.

    Attributes:
        step: Its number.
        sequences: Sequences that got a token: first those from a prefill, then the decoding ones.
        prefilled: How many of them from a prefill.
        decoded: Whether the step decoded, for whomever.
        tokens: Their tokens, or None where they were foretold.
        finished: Those of them that ended; ``finish_reason`` says why.
    """

    step: int
    sequences: list[Sequence]
    prefilled: int
    decoded: bool
    tokens: list[int] | None
    finished: list[Sequence] = field(default_factory=list)


@dataclass(slots=True)
class Ahead:
    """Decode steps of the same sequences that need no decision, were nothing to arrive; the first is planned.

    Attributes:
        decodes: The sequences, in order.
        steps: The most there can be.
        in_flight: Whether a step was in flight when the first was planned, so that one is behind the last.
        snapshot: The scheduler's state when it had planned the first.
        shared_tokens: See :class:`Batch`; the same of all steps.
    """

    decodes: list[Sequence]
    steps: int
    in_flight: bool
    snapshot: Snapshot
    shared_tokens: int


@dataclass(slots=True)
class DecodeRun:
    """Decode steps of the same sequences, planned and committed together.

    Attributes:
        batch: The last of them.
        steps: How many.
        first: The scheduler's state when it had planned the first.
        before_rest: Its state before the second. What was in flight before the run was committed in between.
        new_pages: (steps - 1,) pages that each step behind the first took: first free ones, then evicted ones.
    """

    batch: Batch
    steps: int
    first: Snapshot
    before_rest: Snapshot
    new_pages: npt.NDArray[np.int32]

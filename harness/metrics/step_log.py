"""The step table while a backend fills it: a row a step, or many rows at once for a run of decode steps."""

from __future__ import annotations

from array import array
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from harness.metrics.schema import Decisions
from runtime.scheduler import Batch, DecodeRun, Sequence

FloatArray = npt.NDArray[np.float64]

_COLUMNS: dict[str, type] = {
    "start_s": np.float64,
    "duration_s": np.float64,
    "prefill_tokens": np.int32,
    "decode_tokens": np.int32,
    "sequences": np.int32,
    "padded_sequences": np.int32,
    "graph": np.int8,
    "waiting": np.int32,
    "running": np.int32,
    "pages_used": np.int64,
    "pages_cached": np.int64,
    "pages_free": np.int64,
    "evicted_pages": np.int64,
    "preempted": np.int32,
    "cpu_schedule_s": np.float64,
    "gpu_wait_s": np.float64,
}
_BLOCK = 16_384  # rows


class StepTiming(NamedTuple):
    """What an engine knows of a step besides its batch; seconds, each a float or, for a run, (steps,) floats."""

    start_s: float | FloatArray
    duration_s: float | FloatArray
    gpu_wait_s: float | FloatArray
    cpu_schedule_s: float
    padded_sequences: int
    graph: bool


class StepLog:
    """Columns of :data:`harness.metrics.schema.STEP_COLUMNS`.

    Args:
        pages: Pages of the server's KV memory.
    """

    def __init__(self, pages: int) -> None:
        self._pages = pages
        self._done: list[dict[str, npt.NDArray[np.generic]]] = []
        self._block = np.empty((len(_COLUMNS), _BLOCK))
        self._filled = 0
        self._decodes: list[Sequence] = []  # of the last step that decoded
        self.steps = 0
        self.decode_steps = 0
        self._prefill = (array("q"), array("q"), array("q"))  # step, request id, tokens
        self._joined = (array("q"), array("q"))  # step, request id
        self._left = (array("q"), array("q"))

    def step(self, batch: Batch, timing: StepTiming) -> tuple[list[Sequence], list[Sequence]]:
        """One step.

        Returns:
            The sequences that decode in it and did not in the last step that decoded, and the other way round.
        """
        chunks, decodes, now = batch.chunks, batch.decodes, batch.snapshot
        prefill_tokens = 0
        for chunk in chunks:
            prefill_tokens += chunk.tokens
            self._prefill[0].append(self.steps)
            self._prefill[1].append(chunk.sequence.request_id)
            self._prefill[2].append(chunk.tokens)
        if self._filled == _BLOCK:
            self._flush()
        self._block[:, self._filled] = (
            timing.start_s,
            timing.duration_s,
            prefill_tokens,
            len(decodes),
            len(chunks) + len(decodes),
            timing.padded_sequences,
            timing.graph,
            now.waiting,
            now.running,
            self._pages - now.free_pages - now.evictable_pages,
            now.evictable_pages,
            now.free_pages,
            now.evicted_pages,
            now.preempted,
            timing.cpu_schedule_s,
            timing.gpu_wait_s,
        )
        self._filled += 1
        changes = self._changed(decodes) if decodes else ([], [])
        self.steps += 1
        self.decode_steps += bool(decodes)
        return changes

    def run(self, run: DecodeRun, timing: StepTiming) -> None:
        """Decode steps that repeat the last one recorded."""
        steps, now, sequences = run.steps, run.before, len(run.batch.decodes)
        if self._filled + steps > _BLOCK:
            self._flush()
        free = np.maximum(now.free_pages - run.new_pages.cumsum(), 0)
        evictable = now.evictable_pages - run.evicted_pages.cumsum()
        block = self._block[:, self._filled : self._filled + steps]
        for row, values in enumerate(
            (
                timing.start_s,
                timing.duration_s,
                0,
                sequences,
                sequences,
                timing.padded_sequences,
                timing.graph,
                now.waiting,
                now.running,
                self._pages - free - evictable,
                evictable,
                free,
                run.evicted_pages,
                0,
                timing.cpu_schedule_s,
                timing.gpu_wait_s,
            )
        ):
            block[row] = values
        self._filled += steps
        self.steps += steps
        self.decode_steps += steps

    def columns(self) -> dict[str, npt.NDArray[np.generic]]:
        """The base columns, as :func:`harness.metrics.schema.complete_steps` takes them."""
        self._flush()
        return {name: np.concatenate([block[name] for block in self._done]) for name in _COLUMNS}

    def decisions(self) -> Decisions:
        """What each step ran."""
        prefill, joined, left = (
            [np.frombuffer(column, np.int64) for column in columns]
            for columns in (self._prefill, self._joined, self._left)
        )
        return Decisions(
            self._offsets(prefill[0]),
            prefill[1],
            prefill[2].astype(np.int32),
            self._offsets(joined[0]),
            joined[1],
            self._offsets(left[0]),
            left[1],
        )

    def _changed(self, decodes: list[Sequence]) -> tuple[list[Sequence], list[Sequence]]:
        last = self._decodes
        if decodes == last:
            return [], []
        self._decodes = decodes
        before, after = set(last), set(decodes)
        joined = [sequence for sequence in decodes if sequence not in before]
        left = [sequence for sequence in last if sequence not in after]
        for changed, (steps, ids) in ((joined, self._joined), (left, self._left)):
            for sequence in changed:
                steps.append(self.steps)
                ids.append(sequence.request_id)
        return joined, left

    def _flush(self) -> None:
        rows = self._block[:, : self._filled]
        self._done.append(
            {name: rows[index].astype(dtype) for index, (name, dtype) in enumerate(_COLUMNS.items())}
        )
        self._filled = 0

    def _offsets(self, steps: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        offsets = np.zeros(self.steps + 1, np.int64)
        np.cumsum(np.bincount(steps, minlength=self.steps), out=offsets[1:])
        return offsets

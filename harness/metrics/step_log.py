"""The step table while a backend fills it: a row a step, or many rows at once for a run of decode steps."""

from __future__ import annotations

from array import array
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from harness.metrics.schema import Decisions
from runtime.scheduler import Batch, DecodeRun, Sequence

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

# What a record holds once for all of its steps, in this order; the last six are a Snapshot.
_SHARED = (
    "steps",
    "prefill_tokens",
    "decode_tokens",
    "sequences",
    "padded_sequences",
    "graph",
    "waiting",
    "running",
    "pages_free",
    "pages_cached",
    "evicted_pages",
    "preempted",
)


class StepTiming(NamedTuple):
    """What an engine knows of a step besides its batch, seconds."""

    start_s: float
    duration_s: float
    gpu_wait_s: float
    cpu_schedule_s: float
    padded_sequences: int
    graph: bool


class RunTiming(NamedTuple):
    """The same of a run of decode steps: (steps,) seconds, and what they share.

    The device's wait is that for the first of them; for each other it is the time since the one before ended.
    """

    start_s: FloatArray
    duration_s: FloatArray
    gpu_wait_s: float
    cpu_schedule_s: float
    padded_sequences: int
    graph: bool


class StepLog:
    """Columns of :data:`harness.metrics.schema.STEP_COLUMNS`.

    A record is a step or a run of steps. What differs within a run is kept by step, the rest by record, and the
    table is made at the end.

    Attributes:
        steps: Steps recorded.
        decode_steps: Of these, how many decoded.

    Args:
        pages: Pages of the server's KV memory.
    """

    def __init__(self, pages: int) -> None:
        self._pages = pages
        self.steps = 0
        self.decode_steps = 0
        # A million requests are some twenty million steps: little is kept of each, and counts take 32 bits.
        self._times = (array("d"), array("d"))  # by step: start, duration
        self._new_pages = array("i")  # by step, of runs; 0 for a step recorded as it stood when it was planned
        self._shared = array("i")  # by record: _SHARED
        self._host = (array("d"), array("d"))  # by record: time to plan it, and the device's wait for its first step
        self._decodes: list[Sequence] = []  # of the last step that decoded
        self._prefill = (array("q"), array("q"), array("q"))  # step, request id, tokens
        self._joined = (array("q"), array("q"))  # step, request id
        self._left = (array("q"), array("q"))

    def step(self, batch: Batch, timing: StepTiming) -> tuple[list[Sequence], list[Sequence]]:
        """One step.

        Returns:
            The sequences that decode in it and did not in the last step that decoded, and the other way round.
        """
        chunks, decodes = batch.chunks, batch.decodes
        prefill_tokens = 0
        for chunk in chunks:
            prefill_tokens += chunk.tokens
            self._prefill[0].append(self.steps)
            self._prefill[1].append(chunk.sequence.request_id)
            self._prefill[2].append(chunk.tokens)
        start_s, duration_s, wait_s, schedule_s, padded, graph = timing
        starts, durations = self._times
        starts.append(start_s)
        durations.append(duration_s)
        self._new_pages.append(0)
        sequences = len(chunks) + len(decodes)
        self._record((1, prefill_tokens, len(decodes), sequences, padded, graph, *batch.snapshot), schedule_s, wait_s)
        changes = self._changed(decodes) if decodes else ([], [])
        self.steps += 1
        self.decode_steps += bool(decodes)
        return changes

    def run(self, run: DecodeRun, timing: RunTiming) -> tuple[list[Sequence], list[Sequence]]:
        """Decode steps of the same sequences; returns what :meth:`step` does for the first of them."""
        decodes, steps = run.batch.decodes, run.steps
        start_s, duration_s, wait_s, schedule_s, padded, graph = timing
        starts, durations = self._times
        starts.frombytes(start_s.tobytes())
        durations.frombytes(duration_s.tobytes())
        self._new_pages.append(0)
        shared = (0, len(decodes), len(decodes), padded, graph)
        self._record((1, *shared, *run.first), schedule_s, wait_s)
        if steps > 1:
            self._new_pages.frombytes(run.new_pages.tobytes())
            rest_wait_s = start_s.item(1) - (start_s.item(0) + duration_s.item(0))
            self._record((steps - 1, *shared, *run.before_rest), schedule_s, rest_wait_s)
        changes = self._changed(decodes)
        self.steps += steps
        self.decode_steps += steps
        return changes

    def columns(self) -> dict[str, npt.NDArray[np.generic]]:
        """The base columns, as :func:`harness.metrics.schema.complete_steps` takes them."""
        records = np.frombuffer(self._shared, np.int32).reshape(-1, len(_SHARED))
        steps, *columns = records.T.astype(np.int64)
        shared = {name: np.repeat(values, steps) for name, values in zip(_SHARED[1:], columns, strict=True)}
        start_s, duration_s = (np.frombuffer(column) for column in self._times)
        schedule_s, first_wait_s = (np.frombuffer(column) for column in self._host)
        first = steps.cumsum() - steps
        wait_s = start_s.copy()
        wait_s[1:] -= start_s[:-1] + duration_s[:-1]
        wait_s[first] = first_wait_s
        # Within a run pages come from the free ones first, and then from the cache.
        taken = _within(np.frombuffer(self._new_pages, np.int32), steps)
        evicted = np.maximum(taken - shared["pages_free"], 0)
        free = shared["pages_free"] - taken + evicted
        cached = shared["pages_cached"] - evicted
        evicted_pages = np.diff(evicted, prepend=0)
        evicted_pages[first] = evicted[first]
        return {
            "start_s": start_s,
            "duration_s": duration_s,
            **shared,
            "graph": shared["graph"].astype(np.int8),
            "pages_used": self._pages - free - cached,
            "pages_cached": cached,
            "pages_free": free,
            "evicted_pages": shared["evicted_pages"] + evicted_pages,
            "cpu_schedule_s": np.repeat(schedule_s, steps),
            "gpu_wait_s": wait_s,
        }

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

    def _record(self, shared: tuple[int, ...], schedule_s: float, wait_s: float) -> None:
        self._shared.extend(shared)
        self._host[0].append(schedule_s)
        self._host[1].append(wait_s)

    def _changed(self, decodes: list[Sequence]) -> tuple[list[Sequence], list[Sequence]]:
        last = self._decodes
        if decodes == last:
            return [], []
        self._decodes = decodes
        if decodes[: len(last)] == last:
            left, joined = [], decodes[len(last) :]
        else:
            after = set(decodes)
            left = [sequence for sequence in last if sequence not in after]
            before = set(last) if len(last) - len(left) < len(decodes) else after
            joined = [sequence for sequence in decodes if sequence not in before]
        for changed, (steps, ids) in ((joined, self._joined), (left, self._left)):
            for sequence in changed:
                steps.append(self.steps)
                ids.append(sequence.request_id)
        return joined, left

    def _offsets(self, steps: IntArray) -> IntArray:
        offsets = np.zeros(self.steps + 1, np.int64)
        np.cumsum(np.bincount(steps, minlength=self.steps), out=offsets[1:])
        return offsets


def _within(values: npt.NDArray[np.int32], steps: IntArray) -> IntArray:
    """Sums from the start of each record up to each of its steps."""
    total = values.cumsum()
    first = steps.cumsum() - steps
    return total - np.repeat(total[first] - values[first], steps)

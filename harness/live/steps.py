"""The step table of a real server, out of its worker's records."""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from typing import Any

import numpy as np

from harness.metrics.step_log import StepLog, StepTiming
from runtime.messages import StepRecord
from runtime.scheduler import Batch, Chunk, Sequence, Snapshot


class StepTable:
    """Takes records in the order of their steps and writes the step log.

    Attributes:
        log: The step log.

    Args:
        pages: Pages of the server's KV memory.
        start_s: The run's start on the machine's monotonic clock.
        known_as: Of a request that the server numbered itself, its id to that of the trace.
    """

    def __init__(self, pages: int, start_s: float, known_as: Mapping[int, int]) -> None:
        self.log = StepLog(pages)
        self._known_as = known_as
        self._start_s = start_s
        self._sequences: dict[int, Sequence] = {}
        self._planned_s, self._collected_s = array("d"), array("d")

    def take(self, record: StepRecord) -> None:
        """One step."""
        ids = np.frombuffer(record.chunk_ids, np.int64).tolist()
        tokens = np.frombuffer(record.chunk_tokens, np.int32).tolist()
        chunks = [Chunk(self._named(name), 0, count, False) for name, count in zip(ids, tokens, strict=True)]
        decodes = [self._named(name) for name in np.frombuffer(record.decode_ids, np.int64).tolist()]
        batch = Batch(record.step, chunks, decodes, [], [], Snapshot(*record.snapshot))
        timing = StepTiming(
            record.start_s - self._start_s,
            record.duration_s,
            record.gpu_wait_s,
            record.cpu_schedule_s,
            record.padded_sequences,
            record.graph,
        )
        self.log.step(batch, timing)
        self._planned_s.append(record.planned_s - self._start_s)
        self._collected_s.append(record.collected_s - self._start_s)

    def columns(self) -> dict[str, Any]:
        """The base columns, as :func:`harness.metrics.schema.complete_steps` takes them."""
        moments = {"planned_s": np.array(self._planned_s), "collected_s": np.array(self._collected_s)}
        return self.log.columns() | moments

    def _named(self, request_id: int) -> Sequence:
        """A stand-in for the sequence of that id: the log wants names, and knows them apart by identity."""
        sequence = self._sequences.get(request_id)
        if sequence is None:
            name = self._known_as.get(request_id, request_id)
            sequence = self._sequences[request_id] = Sequence(name, 1, np.empty(0, np.int32), 1)
        return sequence

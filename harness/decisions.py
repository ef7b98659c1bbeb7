"""Whether two replays decided alike, step by step, and where they part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.metrics.schema import Decisions
from harness.record import RunRecord

# Columns of the step table that are decisions: the rest is time.
_COLUMNS = (
    "prefill_tokens",
    "decode_tokens",
    "waiting",
    "running",
    "pages_used",
    "pages_cached",
    "pages_free",
    "evicted_pages",
    "preempted",
)
_REQUEST_COLUMNS = ("status", "output_tokens", "cached_tokens", "chunks", "preemptions", "recomputed_tokens")


@dataclass(frozen=True, slots=True)
class Difference:
    """Where two replays part.

    Attributes:
        step: The first step that differs, or None where a request's outcome does.
        what: What differs.
        first: What the first replay had.
        other: What the other had.
    """

    step: int | None
    what: str
    first: str
    other: str

    def __str__(self) -> str:
        where = "no step differs, but" if self.step is None else f"step {self.step}:"
        return f"{where} {self.what}: {self.first} against {self.other}"


def first_difference(first: RunRecord, other: RunRecord) -> Difference | None:
    """The first decision in which two replays of one workload differ, or None.

    Steps are compared by what they ran (request ids, prompt tokens of each, who decodes), by the state of the KV memory
    and the queue, by evictions and preemptions; requests by their cached tokens, chunks, preemptions and outcome.

    Args:
        first: A replay with a step table.
        other: Another.
    """
    if first.steps is None or other.steps is None or first.decisions is None or other.decisions is None:
        raise ValueError("a replay without a step table has no decisions to compare")
    found = [
        *_column_differences(first.steps, other.steps),
        *_list_differences(first.decisions, other.decisions),
    ]
    steps = len(first.steps["start_s"]), len(other.steps["start_s"])
    if steps[0] != steps[1]:
        found.append(Difference(min(steps), "steps", str(steps[0]), str(steps[1])))
    if found:
        return min(found, key=lambda difference: difference.step or 0)
    for column in _REQUEST_COLUMNS:
        unequal = np.flatnonzero(first.requests[column] != other.requests[column])
        if len(unequal):
            row = int(unequal[0])
            request_id = first.requests["request_id"][row]
            values = first.requests[column][row], other.requests[column][row]
            return Difference(None, f"{column} of request {request_id}", str(values[0]), str(values[1]))
    return None


def _column_differences(first: dict[str, Any], other: dict[str, Any]) -> list[Difference]:
    steps = min(len(first["start_s"]), len(other["start_s"]))
    found = []
    for column in _COLUMNS:
        unequal = np.flatnonzero(first[column][:steps] != other[column][:steps])
        if len(unequal):
            step = int(unequal[0])
            found.append(Difference(step, column, str(first[column][step]), str(other[column][step])))
    return found


def _list_differences(first: Decisions, other: Decisions) -> list[Difference]:
    found = []
    lists = other.lists()
    for name, (offsets, values) in first.lists().items():
        other_offsets, other_values = lists[name]
        step = _first_unequal(offsets, values, other_offsets, other_values)
        if step is not None:
            ran = values[offsets[step] : offsets[step + 1]].tolist()
            other_ran = other_values[other_offsets[step] : other_offsets[step + 1]].tolist()
            found.append(Difference(step, name, str(ran), str(other_ran)))
    return found


def _first_unequal(offsets: Any, values: Any, other_offsets: Any, other_values: Any) -> int | None:
    """The first row of two ragged arrays that differs, among the rows that both have."""
    rows = min(len(offsets), len(other_offsets)) - 1
    candidates = []
    longer = np.flatnonzero(offsets[: rows + 1] != other_offsets[: rows + 1])
    if len(longer):
        candidates.append(int(longer[0]) - 1)
    common = min(len(values), len(other_values))
    unequal = np.flatnonzero(values[:common] != other_values[:common])
    if len(unequal):
        candidates.append(int(np.searchsorted(offsets, unequal[0], side="right")) - 1)
    candidates = [step for step in candidates if step < rows]
    return min(candidates) if candidates else None

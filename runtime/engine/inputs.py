"""From a batch to the arrays that a step reads, a few vectorised operations and no loop over tokens."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from runtime.scheduler.batch import Batch

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class StepInputs:
    """One step, on the host, with nothing in it that the scheduler changes later.

    Sequences stand in the order of the batch: chunks, then decodes. Tokens stand in the order of their sequences.

    Attributes:
        tokens: (chunk tokens,) ids of the chunks' tokens; a decode's is on the device.
        positions: (tokens,) position of each token in its sequence.
        slots: (tokens,) where its KV goes.
        rows: (sequences,) each sequence's row of the page table.
        query_lengths: (sequences,) tokens that each computes.
        lengths: (sequences,) tokens that each has KV of afterwards.
        pages: (sequences, columns) their rows of the page table, as wide as the longest needs.
        prefills: How many sequences compute a chunk.
        sampled: (sampled,) index of the sequences whose next token is sampled.
        sampled_tokens: (sampled,) index of their last tokens.
    """

    tokens: IntArray
    positions: IntArray
    slots: IntArray
    rows: IntArray
    query_lengths: IntArray
    lengths: IntArray
    pages: npt.NDArray[np.int32]
    prefills: int
    sampled: IntArray
    sampled_tokens: IntArray


def step_inputs(batch: Batch, table: npt.NDArray[np.int32], page_size: int) -> StepInputs:
    """Read a batch.

    Args:
        batch: Just scheduled.
        table: (rows, columns) the scheduler's page table.
        page_size: Tokens a page.
    """
    chunks, prefills = batch.chunks, len(batch.chunks)
    rows = np.array([chunk.sequence.row for chunk in chunks] + [s.row for s in batch.decodes], np.int64)
    starts = np.array([chunk.start for chunk in chunks] + batch.positions, np.int64)
    query_lengths = np.ones(len(rows), np.int64)
    query_lengths[:prefills] = [chunk.tokens for chunk in chunks]
    lengths = starts + query_lengths
    ends = query_lengths.cumsum()

    pages = table[rows, : -(-int(lengths.max()) // page_size)]
    sequence = np.repeat(np.arange(len(rows)), query_lengths)
    positions = np.arange(ends[-1]) + np.repeat(starts - ends + query_lengths, query_lengths)
    page, offset = np.divmod(positions, page_size)
    samples = np.ones(len(rows), bool)
    samples[:prefills] = [chunk.samples for chunk in chunks]
    sampled = samples.nonzero()[0]
    parts = [chunk.sequence.tokens[chunk.start : chunk.start + chunk.tokens] for chunk in chunks]
    return StepInputs(
        tokens=np.concatenate(parts, dtype=np.int64) if parts else np.zeros(0, np.int64),
        positions=positions,
        slots=pages[sequence, page].astype(np.int64) * page_size + offset,
        rows=rows,
        query_lengths=query_lengths,
        lengths=lengths,
        pages=pages,
        prefills=prefills,
        sampled=sampled,
        sampled_tokens=ends[sampled] - 1,
    )


def padded(inputs: StepInputs, tokens: int, *, row: int, page: int, page_size: int) -> StepInputs:
    """A step with a chunk more, the last, of no sequence, so that it computes so many tokens.

    It computes nothing that another sequence reads, and reads nothing that it does not compute.

    Args:
        inputs: The step; it has no more tokens than that.
        tokens: How many.
        row: Of the page table, that no sequence has.
        page: That no sequence has.
        page_size: Tokens a page.
    """
    padding = tokens - len(inputs.positions)
    if not padding:
        return inputs
    prefills, prefilled = inputs.prefills, len(inputs.tokens)
    sequences, columns = inputs.pages.shape
    pages = np.full((sequences + 1, max(columns, -(-padding // page_size))), page, np.int32)
    pages[:prefills, :columns], pages[prefills + 1 :, :columns] = inputs.pages[:prefills], inputs.pages[prefills:]
    behind = inputs.sampled >= prefills
    return replace(
        inputs,
        tokens=np.pad(inputs.tokens, (0, padding)),
        positions=np.insert(inputs.positions, prefilled, np.zeros(padding, np.int64)),
        slots=np.insert(inputs.slots, prefilled, page * page_size + np.arange(padding) % page_size),
        rows=np.insert(inputs.rows, prefills, row),
        query_lengths=np.insert(inputs.query_lengths, prefills, padding),
        lengths=np.insert(inputs.lengths, prefills, padding),
        pages=pages,
        prefills=prefills + 1,
        sampled=inputs.sampled + behind,
        sampled_tokens=inputs.sampled_tokens + padding * behind,
    )

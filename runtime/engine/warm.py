"""Steps of no sequence, run when an engine starts: a kernel is loaded when it is first launched, and that takes long.

Which kernels a step launches depends on its numbers: cuBLAS has many for one product and chooses by its rows, others
are compiled for alignments and for splits. Left to the first requests, new ones cost a step of Qwen3-8B 10 to 45 ms.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from runtime.engine.inputs import IntArray, StepInputs
from runtime.engine.sampler import Biases, Draws, SamplingPlan, Truncation
from runtime.scheduler.graph_sizes import ladder

_SIZES = 24
_LEAST, _MOST = 16, 16_384  # tokens; there are no other kernels for more
_CONTEXT = 2048  # tokens that a decode beside chunks attends to: few such are split
_TRUNCATED_ROWS = (1, 2)  # sorted as one row, and as several


def warm_tokens(most: int) -> list[int]:
    """Tokens of the steps to run, the largest first: each the same part of the one before, even and odd in turn."""
    sizes = np.geomspace(min(most, _MOST), min(most, _LEAST), _SIZES).round().astype(int).tolist()
    turned = (size - 1 + size % 2 if index % 2 else max(size - size % 16, 1) for index, size in enumerate(sizes))
    return list(dict.fromkeys(turned))


def warm_prefills(most: int, max_running: int, *, row: int, page: int, page_size: int) -> Iterator[StepInputs]:
    """Steps with chunks, the largest first, so that the others fit in its memory.

    In turn of one chunk, of two, and of one with decodes beside it.

    Args:
        most: Prompt tokens of the largest.
        max_running: The most sequences of a step.
        row: Of the page table, that no sequence has.
        page: That no sequence has.
        page_size: Tokens a page.
    """
    for index, tokens in enumerate(warm_tokens(most)):
        decodes = min(tokens // 2, max_running - 1) if index % 3 == 2 else 0
        prompts = tokens - decodes
        cut = prompts // 3 if index % 3 == 1 and max_running > 1 else 0
        chunks = [length for length in (cut, prompts - cut) if length]
        yield of_no_sequence(chunks, decodes, row=row, page=page, page_size=page_size)


def warm_rows(max_running: int) -> list[int]:
    """Sequences that a step decodes or samples, the most first: the sizes of graphs, and odd numbers below them."""
    sizes = ladder(max_running)
    return sorted({*sizes, *(size - 1 for size in sizes if size > 1)}, reverse=True)


def of_no_sequence(chunks: list[int], decodes: int, *, row: int, page: int, page_size: int) -> StepInputs:
    """A step that leaves KV on one page and tokens in one row, as padding does.

    Args:
        chunks: Tokens of each.
        decodes: Sequences that decode.
        row: Of the page table, that no sequence has.
        page: That no sequence has.
        page_size: Tokens a page.
    """
    starts = np.repeat([0, _CONTEXT - 1], [len(chunks), decodes])
    query_lengths = np.array(chunks + [1] * decodes, np.int64)
    lengths, ends = starts + query_lengths, query_lengths.cumsum()
    positions = np.arange(ends[-1]) + np.repeat(lengths - ends, query_lengths)
    sequences = np.arange(len(lengths))
    return StepInputs(
        tokens=np.zeros(sum(chunks), np.int64),
        positions=positions,
        slots=page * page_size + positions % page_size,
        rows=np.full_like(sequences, row),
        query_lengths=query_lengths,
        lengths=lengths,
        pages=np.full((len(lengths), -(-int(lengths.max()) // page_size)), page, np.int32),
        prefills=len(chunks),
        sampled=sequences,
        sampled_tokens=ends - 1,
    )


def warm_plans(rows: int) -> Iterator[SamplingPlan]:
    """Ways to sample so many rows: the likeliest token, a drawn one, for few rows all that leaves no counts behind."""
    index: IntArray = np.arange(rows)
    draws = Draws(np.ones(rows, np.float32), np.zeros((rows, 2), np.uint32))
    foretold = np.full(rows, -1)
    yield SamplingPlan(None, None, None, None, foretold, None)
    yield SamplingPlan(draws, None, None, None, None, None)
    if rows in _TRUNCATED_ROWS:
        half, none = np.full(rows, 0.5, np.float32), np.zeros(rows, np.float32)
        truncation = Truncation(index, top_p=half, top_k=np.zeros(rows, np.int64), min_p=none)
        yield SamplingPlan(draws, truncation, None, Biases(index, index, none), None, [1] * rows)

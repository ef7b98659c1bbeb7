"""Prefix paths: a number for every distinct prefix of blocks in a trace, exact and vectorised."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from traces.schema import NONE, IntArray, Trace


@dataclass(frozen=True)
class Paths:
    """The prefix tree of a trace: a *path* is a block together with everything before it.

    Two blocks have the same path exactly when they end equal runs of block ids, so it does not matter whether
    the source's ids name a whole prefix (Mooncake) or a block only (Qwen-Bailian). An answer whose
    ``output_id`` is named is one more block after its prompt. A block that a cap has shortened keeps its
    path: it is the beginning of the whole one.

    Attributes:
        of_block: Path of each block of the trace, aligned with ``trace.block_id``.
        of_output: Path of each row's answer, -1 where ``output_id`` is -1.
        of_prompt: Path of each row's last prompt block, -1 where the prompt has no block.
        parent: For each path the path before it, -1 at the root.
        id: For each path the id of its last block.
    """

    of_block: IntArray
    of_output: IntArray
    of_prompt: IntArray
    parent: IntArray
    id: IntArray

    def __len__(self) -> int:
        return len(self.parent)


def find_paths(trace: Trace) -> Paths:
    """Number the prefix paths of ``trace``, one pass per depth over the rows that reach it.

    Exact: paths are told apart by (parent path, block id) pairs, never by a hash of them.
    """
    blocks = np.diff(trace.block_start)
    has_output = trace.output_id != NONE
    entries = blocks + has_output  # a row's blocks, then its named answer
    start = np.concatenate(([0], np.cumsum(entries)))
    answer_at = start[1:][has_output] - 1
    is_block = np.ones(start[-1], bool)
    is_block[answer_at] = False
    ids = np.empty(start[-1], np.int64)
    ids[is_block] = trace.block_id
    ids[answer_at] = trace.output_id[has_output]
    names, dense = np.unique(ids, return_inverse=True)

    path = np.empty(len(ids), np.int64)
    parents: list[IntArray] = []
    last: list[IntArray] = []
    deepest_first = np.argsort(-entries, kind="stable")
    reach = np.searchsorted(-entries[deepest_first], -np.arange(entries.max(initial=0)), side="left")
    before = np.full(len(trace), NONE, np.int64)
    total = 0
    for depth, rows in enumerate(reach.tolist()):  # this many rows have an entry at `depth`
        at = start[deepest_first[:rows]] + depth
        above, label = before[:rows], dense[at]
        _, first, inverse = np.unique((above + 1) * len(names) + label, return_index=True, return_inverse=True)
        parents.append(above[first])
        last.append(label[first])
        before = path[at] = inverse + total
        total += len(first)

    of_output = np.full(len(trace), NONE, np.int64)
    of_output[has_output] = path[answer_at]
    of_prompt = np.full(len(trace), NONE, np.int64)
    of_block = path[is_block]
    of_prompt[blocks > 0] = of_block[trace.block_start[1:][blocks > 0] - 1]
    empty = [np.empty(0, np.int64)]
    return Paths(
        of_block=of_block,
        of_output=of_output,
        of_prompt=of_prompt,
        parent=np.concatenate(parents or empty),
        id=names[np.concatenate(last or empty)],
    )

"""Qwen-Bailian's anonymised usage traces (alibaba-edu/qwen-bailian-usagetraces-anon).

One JSON object a line: ``chat_id``, ``parent_chat_id`` (-1: none), ``timestamp`` (s), ``input_length`` and
``output_length`` (tokens), ``type``, ``turn`` (from 1), ``hash_ids`` (one id per 16-token block). An id names
a block's content only: the same id may follow different prefixes. Every line holds the whole prompt, history
included. Wang et al., KVCache Cache in the Wild, USENIX ATC 2025.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from traces.readers.jsonl import IdColumn, records
from traces.readers.turns import leave_out_failed
from traces.schema import NONE, Blocks, Trace

if TYPE_CHECKING:
    from traces.readers.source import Source
    from traces.schema import FloatArray, IntArray


class _Line(msgspec.Struct):
    chat_id: int
    parent_chat_id: int
    timestamp: float
    input_length: int
    output_length: int
    hash_ids: list[int]
    turn: int = 1


def recognise(source: Source) -> bool:
    """Whether the first line is a request of this format."""
    return {"chat_id", "parent_chat_id", "input_length", "hash_ids"} <= source.json_fields


def read(source: Source, *, block_size: int = 16) -> Trace:
    """Read a Qwen-Bailian trace.

    A request waits for its parent where the parent is in the file; those of one root are one session.

    Args:
        source: The file.
        block_size: Tokens of a full block.

    Raises:
        TraceError: A line is wrong.
    """
    numbers, times = array("q"), array("d")
    ids = IdColumn(source)
    for line_number, line in records(source, _Line):
        ids.extend(line_number, "hash_ids", line.hash_ids)
        links = (line.chat_id, line.parent_chat_id, line.turn)
        try:
            numbers.extend((*links, line.input_length, line.output_length, len(line.hash_ids)))
        except OverflowError:
            raise source.error(line_number, "an id or a length does not fit 64 bits") from None
        times.append(line.timestamp)
    chat, parent_chat, turn, prompt, output, count = np.array(numbers).reshape(-1, 6).T.copy()
    stamp = np.array(times)
    source.require(prompt >= 1, "input_length", prompt, "at least 1 token")
    source.require(output >= 0, "output_length", output, "0 tokens or more")
    source.require(np.isfinite(stamp) & (stamp >= 0), "timestamp", stamp, "0 s or more")
    full, needed = prompt // block_size, -(-prompt // block_size)
    fits = (count == needed) | (count == full)
    if not fits.all():
        row = int(fits.argmin())
        said = f"hash_ids has {count[row]} ids, expected {needed[row]} for an input_length of {prompt[row]}"
        raise source.error_at(row, f"{said} in blocks of {block_size} tokens (option block_size)")

    parent, lost = _parents(chat, parent_chat, stamp)
    trace = Trace.build(
        source.name,
        arrival_s=stamp,
        prompt_tokens=prompt,
        output_tokens=np.maximum(output, 1),
        blocks=Blocks.of_size(prompt, count, ids.array(), block_size),
        block_size=block_size,
        notes=(f"{lost} links to a parent that is not in the file, or not before, left out",) if lost else (),
        session_id=_roots(parent),
        turn=np.maximum(turn - 1, 0),
        parent_id=parent,
    )
    return leave_out_failed(trace, output)


def _parents(chat: IntArray, parent_chat: IntArray, stamp: FloatArray) -> tuple[IntArray, int]:
    """Row of each request's parent or -1, and how many links had to be left out."""
    ids, first = np.unique(chat, return_index=True)
    place = np.searchsorted(ids, parent_chat).clip(max=len(ids) - 1)
    parent = np.where(ids[place] == parent_chat, first[place], NONE)
    row = np.arange(len(chat))
    known = parent != NONE
    earlier = (stamp[parent] < stamp) | ((stamp[parent] == stamp) & (parent < row))
    parent[known & ~earlier] = NONE
    return parent, int(((parent_chat != NONE) & (parent == NONE)).sum())


def _roots(parent: IntArray) -> IntArray:
    """The row at the top of each row's chain: pointers are followed in doubling steps."""
    root = np.where(parent == NONE, np.arange(len(parent)), parent)
    while True:
        above = root[root]
        if np.array_equal(above, root):
            return root
        root = above

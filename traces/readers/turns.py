"""Conversations in a source: which request follows which, and what its prompt then holds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from traces.errors import TraceError
from traces.schema import NONE, Blocks, offsets

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt

    from traces.schema import BoolArray, IntArray, Trace


def number(names: Iterable[str | int | None]) -> IntArray:
    """Ids from 0 in order of first appearance, -1 where there is no name."""
    seen: dict[str | int, int] = {}
    ids = [NONE if name is None or name == "" else seen.setdefault(name, len(seen)) for name in names]
    return np.array(ids, dtype=np.int64)


def follow(session: IntArray, rank: npt.NDArray[Any] | None = None) -> tuple[IntArray, IntArray]:
    """Each request's turn and the row of the turn before, -1 for a first turn or where there is no session.

    Args:
        session: Session of each row, -1 for none, shape (n,).
        rank: What orders the turns of a session, shape (n,); without, the rows' own order does.
    """
    turn = np.zeros(len(session), dtype=np.int64)
    parent = np.full(len(session), NONE, dtype=np.int64)
    order = np.argsort(session, kind="stable") if rank is None else np.lexsort((rank, session))
    order = order[np.searchsorted(session[order], 0) :]
    if len(order):
        ranked = session[order]
        first = np.append(True, ranked[1:] != ranked[:-1])
        begin = np.flatnonzero(first)
        turn[order] = np.arange(len(order)) - np.repeat(begin, np.diff(np.append(begin, len(order))))
        parent[order[1:]] = np.where(first[1:], NONE, order[:-1])
    return turn, parent


def leave_out_failed(trace: Trace, output_tokens: IntArray) -> Trace:
    """The trace without the requests that produced no token: they failed, and their load is not known.

    Args:
        trace: Built with those lengths raised to 1.
        output_tokens: Lengths of the answers as the source has them, by request id.

    Raises:
        TraceError: None is left.
    """
    answered = output_tokens[trace.request_id] > 0
    failed = len(trace) - int(answered.sum())
    if not failed:
        return trace
    if failed == len(trace):
        raise TraceError(f"trace {trace.name!r} is empty: none of its {failed} requests has output tokens")
    return trace.take(np.flatnonzero(answered)).noted(f"{failed} requests without output tokens left out")


def accumulate(
    blocks: Blocks,
    adds: BoolArray,
    turn: IntArray,
    parent: IntArray,
    output_id: IntArray,
    output_tokens: IntArray,
) -> Blocks:
    """Prompts that hold the whole conversation, from lines that hold what each turn adds.

    Args:
        blocks: What each line holds.
        adds: Which rows add to the turn before, shape (n,).
        turn: Position in the conversation, shape (n,).
        parent: Row of the turn before, or -1, shape (n,).
        output_id: Block that each answer is, shape (n,).
        output_tokens: Length of each answer, tokens, shape (n,).
    """
    ids = np.split(blocks.id, blocks.start[1:-1])
    tokens = np.split(blocks.tokens, blocks.start[1:-1])
    growing = np.flatnonzero(adds & (parent != NONE))
    for row in growing[np.argsort(turn[growing], kind="stable")].tolist():
        before = parent[row]
        ids[row] = np.concatenate((ids[before], output_id[before : before + 1], ids[row]))
        tokens[row] = np.concatenate((tokens[before], output_tokens[before : before + 1], tokens[row]))
    counts = np.array([len(run) for run in ids], dtype=np.int64)
    return Blocks(start=offsets(counts), id=np.concatenate(ids), tokens=np.concatenate(tokens))

"""The one in-memory form of a workload: a table of requests, columnar underneath."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from traces.errors import TraceError

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]

NONE = -1  # in an id column: there is none

MAX_ID = int(np.iinfo(np.int64).max)


@dataclass(frozen=True, slots=True)
class Request:
    """What arrives: one row of a :class:`Trace`.

    Attributes:
        row: Position in the trace it was read from.
        request_id: Identity that survives sampling, slicing and reordering.
        arrival_s: Intended arrival, seconds from the start of the trace.
        prompt_tokens: Length of the prompt, tokens.
        output_tokens: Tokens that the recorded server produced.
        max_tokens: The most tokens the client asked for.
        session_id: The conversation this belongs to, or -1.
        turn: Position in the conversation, from 0.
        parent_id: Request that must have ended before this one may arrive, or -1.
        think_s: Seconds between the parent's end and this arrival, at least.
        client_id: Tenant, or -1.
        priority: Larger is more urgent.
        deadline_s: Seconds after arrival by which the last token is wanted, or NaN.
    """

    row: int
    request_id: int
    arrival_s: float
    prompt_tokens: int
    output_tokens: int
    max_tokens: int
    session_id: int = NONE
    turn: int = 0
    parent_id: int = NONE
    think_s: float = 0.0
    client_id: int = NONE
    priority: int = 0
    deadline_s: float = float("nan")


@dataclass(frozen=True, slots=True)
class Blocks:
    """The prompts of ``n`` requests as runs of blocks (see :class:`Trace`).

    Attributes:
        start: Where each request's run begins, and the end of the last: ``n + 1`` offsets.
        id: Block ids, all runs one after the other.
        tokens: Length of each block, tokens.
    """

    start: IntArray
    id: IntArray
    tokens: IntArray

    @classmethod
    def of_size(cls, prompt_tokens: IntArray, counts: IntArray, ids: IntArray, block_size: int) -> Self:
        """Runs of equal blocks of which only the last of a prompt may be partial.

        A prompt that its ids do not cover (sources that name full blocks only, or none) ends in a block of
        its own.

        Args:
            prompt_tokens: Length of each prompt, tokens, all positive.
            counts: How many ids each prompt has, at most ``ceil(prompt_tokens / block_size)``.
            ids: Block ids, all prompts one after the other.
            block_size: Tokens of a full block.
        """
        tail = prompt_tokens > counts * block_size
        start = offsets(counts + tail)
        last = start[1:] - 1
        tokens = np.full(start[-1], block_size, dtype=np.int64)
        tokens[last] = prompt_tokens - (counts + tail - 1) * block_size
        if tail.any():
            named = np.ones(start[-1], dtype=np.bool_)
            named[last[tail]] = False
            own = fresh_ids(ids, int(tail.sum()))
            ids, given = np.empty(start[-1], dtype=np.int64), ids
            ids[named] = given
            ids[~named] = own
        return cls(start=start, id=ids, tokens=tokens)

    def take(self, rows: IntArray) -> Self:
        """The runs of some rows, in their order."""
        counts = np.diff(self.start)[rows]
        start = offsets(counts)
        flat = np.repeat(self.start[rows] - start[:-1], counts) + np.arange(start[-1])
        return type(self)(start=start, id=self.id[flat], tokens=self.tokens[flat])


@dataclass(frozen=True, eq=False)
class Trace:
    """Requests in order of arrival, one NumPy array a column, all of length ``n``.

    A prompt is a run of *blocks*: the blocks of row ``r`` are ``block_id[block_start[r]:block_start[r + 1]]``
    with ``block_tokens`` tokens each, and their lengths add up to ``prompt_tokens[r]``. Equal blocks after
    equal blocks are equal tokens, so shared prefixes are shared blocks (Mooncake's ``hash_ids``).
    ``output_id`` names the block that the answer is, so that the next turn's prompt can contain it.

    Sorted by ``arrival_s`` (stable); :meth:`validate` says what else holds.
    """

    name: str
    request_id: IntArray
    arrival_s: FloatArray
    prompt_tokens: IntArray
    output_tokens: IntArray
    max_tokens: IntArray
    session_id: IntArray
    turn: IntArray
    parent_id: IntArray
    think_s: FloatArray
    client_id: IntArray
    priority: IntArray
    deadline_s: FloatArray
    block_start: IntArray  # n + 1
    block_id: IntArray  # flat
    block_tokens: IntArray  # flat
    output_id: IntArray
    block_size: int = 0  # nominal tokens a block, 0 where lengths vary freely
    has_blocks: bool = True  # False: the source names no prefixes, every prompt is one block of its own
    notes: tuple[str, ...] = field(default=())  # what was done to the source, for the run's config

    @classmethod
    def build(
        cls,
        name: str,
        *,
        arrival_s: npt.ArrayLike,
        prompt_tokens: npt.ArrayLike,
        output_tokens: npt.ArrayLike,
        blocks: Blocks | None = None,
        block_size: int = 0,
        notes: tuple[str, ...] = (),
        **columns: npt.ArrayLike,
    ) -> Trace:
        """A valid trace from the columns a source has; the others get the value that means nothing is known.

        Rows may come in any order: they are sorted by arrival (stable), and a note says so.

        Args:
            name: What the trace is called.
            arrival_s: Seconds from the start of the trace, shape (n,).
            prompt_tokens: Tokens, shape (n,).
            output_tokens: Tokens, shape (n,).
            blocks: The prompts' blocks; without, each prompt is one block of its own.
            block_size: Nominal tokens of a block, 0 where lengths vary freely.
            notes: What was done to the source.
            **columns: Any other per-request column of :class:`Trace`, shape (n,).

        Raises:
            TraceError: What :meth:`validate` finds.
        """
        arrivals = np.asarray(arrival_s, dtype=np.float64)
        n = len(arrivals)
        table: dict[str, Any] = {
            "arrival_s": arrivals,
            "prompt_tokens": np.asarray(prompt_tokens, dtype=np.int64),
            "output_tokens": np.asarray(output_tokens, dtype=np.int64),
        }
        for column, nothing in _DEFAULTS.items():
            given = columns.pop(column, None)
            kind = np.float64 if column in FLOAT_COLUMNS else np.int64
            table[column] = np.full(n, nothing, dtype=kind) if given is None else np.asarray(given, dtype=kind)
        for column in ("request_id", "max_tokens", "output_id"):
            if column in columns:
                table[column] = np.asarray(columns.pop(column), dtype=np.int64)
        if columns:
            raise TypeError(f"Trace has no column {sorted(columns)[0]!r}")
        table.setdefault("request_id", np.arange(n, dtype=np.int64))
        table.setdefault("max_tokens", table["output_tokens"])
        has_blocks = blocks is not None
        if blocks is None:
            blocks = Blocks(np.arange(n + 1, dtype=np.int64), np.arange(n, dtype=np.int64), table["prompt_tokens"])
        table.setdefault("output_id", fresh_ids(blocks.id, n))

        if n and bool((arrivals[1:] < arrivals[:-1]).any()):
            order = np.argsort(arrivals, kind="stable")
            table = {column: values[order] for column, values in table.items()}
            blocks = blocks.take(order)
            notes = (*notes, "requests sorted by arrival: the source was not in order")
        trace = cls(
            name=name,
            **table,
            block_start=blocks.start,
            block_id=blocks.id,
            block_tokens=blocks.tokens,
            block_size=block_size,
            has_blocks=has_blocks,
            notes=notes,
        )
        trace.validate()
        return trace

    def __len__(self) -> int:
        return len(self.request_id)

    @property
    def blocks(self) -> Blocks:
        """The prompts' blocks."""
        return Blocks(self.block_start, self.block_id, self.block_tokens)

    def request(self, row: int) -> Request:
        """The request at ``row`` as plain Python values."""
        return Request(
            row=row,
            request_id=int(self.request_id[row]),
            arrival_s=float(self.arrival_s[row]),
            prompt_tokens=int(self.prompt_tokens[row]),
            output_tokens=int(self.output_tokens[row]),
            max_tokens=int(self.max_tokens[row]),
            session_id=int(self.session_id[row]),
            turn=int(self.turn[row]),
            parent_id=int(self.parent_id[row]),
            think_s=float(self.think_s[row]),
            client_id=int(self.client_id[row]),
            priority=int(self.priority[row]),
            deadline_s=float(self.deadline_s[row]),
        )

    def with_columns(self, **columns: Any) -> Trace:
        """The same trace with some columns or facts replaced."""
        return replace(self, **columns)

    def noted(self, note: str) -> Trace:
        """The same trace with one more note."""
        return replace(self, notes=(*self.notes, note))

    def take(self, rows: IntArray) -> Trace:
        """Some rows, in their order (which must be an order of arrival).

        A request whose parent is not among them loses the link, so that nothing waits for what never comes.
        """
        blocks = self.blocks.take(rows)
        table: dict[str, Any] = {column: getattr(self, column)[rows] for column in REQUEST_COLUMNS}
        orphan = ~np.isin(table["parent_id"], table["request_id"])
        table["parent_id"] = np.where(orphan, NONE, table["parent_id"])
        return replace(self, **table, block_start=blocks.start, block_id=blocks.id, block_tokens=blocks.tokens)

    def equals(self, other: Trace) -> bool:
        """Whether every column and every fact is the same, NaN equal to NaN."""
        return all(_same(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))

    def validate(self) -> None:
        """Check what everything downstream relies on.

        Arrivals are finite, not negative and in order; lengths of prompts and answers are positive; request
        ids are unique; a parent is in the trace, is another request and arrives no later; the blocks of a
        prompt add up to its length.

        Raises:
            TraceError: The first thing that does not hold, with the request and the value.
        """
        n = len(self)
        if n == 0:
            raise TraceError(f"trace {self.name!r} is empty: it has no requests")
        for column in REQUEST_COLUMNS:
            if len(getattr(self, column)) != n:
                raise TraceError(f"trace {self.name!r}: column {column} has {len(getattr(self, column))} rows, not {n}")
        arrival = self.arrival_s
        self._require(np.isfinite(arrival) & (arrival >= 0), "arrival_s", "a finite time of 0 s or more")
        self._require(np.append(True, arrival[1:] >= arrival[:-1]), "arrival_s", "no earlier than the row before")
        for column in ("prompt_tokens", "output_tokens", "max_tokens"):
            self._require(getattr(self, column) >= 1, column, "at least 1 token")
        self._require(self.output_tokens <= self.max_tokens, "output_tokens", "no more than max_tokens")
        self._require(self.turn >= 0, "turn", "0 or more")
        self._require(np.isfinite(self.think_s) & (self.think_s >= 0), "think_s", "a finite time of 0 s or more")
        self._require(~(self.deadline_s <= 0), "deadline_s", "more than 0 s, or nothing")
        self._validate_links()
        self._validate_blocks()

    def _validate_links(self) -> None:
        ids, first = np.unique(self.request_id, return_index=True)
        self._require(self.request_id >= 0, "request_id", "0 or more")
        self._require(np.isin(np.arange(len(self)), first), "request_id", "an id that no other request has")
        child = np.flatnonzero(self.parent_id != NONE)
        known = np.ones(len(self), dtype=np.bool_)
        place = np.searchsorted(ids, self.parent_id[child]).clip(max=len(ids) - 1)
        known[child] = ids[place] == self.parent_id[child]
        self._require(known, "parent_id", "the id of a request of this trace")
        before = np.ones(len(self), dtype=np.bool_)
        before[child] = first[place] < child
        self._require(before, "parent_id", "a request that arrives earlier")

    def _validate_blocks(self) -> None:
        start, tokens = self.block_start, self.block_tokens
        counts = np.diff(start)
        if len(start) != len(self) + 1 or start[0] != 0 or not start[-1] == len(self.block_id) == len(tokens):
            raise TraceError(f"trace {self.name!r}: block_start does not fit its requests and blocks")
        self._require(counts >= 1, "blocks", "at least one block")
        if len(tokens) and int(tokens.min()) < 1:
            row = int(np.searchsorted(start, int(np.argmin(tokens)), side="right")) - 1
            raise TraceError(f"trace {self.name!r}, request {self.request_id[row]}: a block of {tokens.min()} tokens")
        if (self.block_id == NONE).any():
            raise TraceError(f"trace {self.name!r}: a block has the id {NONE}, which means that there is none")
        fits = np.add.reduceat(tokens, start[:-1]) == self.prompt_tokens
        self._require(fits, "prompt_tokens", "the sum of its blocks")

    def _require(self, good: BoolArray, column: str, expected: str) -> None:
        if not good.all():
            row = int(np.argmin(good))
            value = getattr(self, column)[row] if column != "blocks" else "none"
            place = f"trace {self.name!r}, request {self.request_id[row]}"
            raise TraceError(f"{place}: {column} is {value}, expected {expected}")


FLOAT_COLUMNS = ("arrival_s", "think_s", "deadline_s")
_DEFAULTS: dict[str, float] = {
    "session_id": NONE,
    "turn": 0,
    "parent_id": NONE,
    "think_s": 0.0,
    "client_id": NONE,
    "priority": 0,
    "deadline_s": float("nan"),
}
REQUEST_COLUMNS = (
    "request_id",
    "arrival_s",
    "prompt_tokens",
    "output_tokens",
    "max_tokens",
    *_DEFAULTS,
    "output_id",
)


def offsets(counts: IntArray) -> IntArray:
    """Where runs of these lengths begin when laid one after the other, and the end: shape (n + 1,)."""
    start = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=start[1:])
    return start


def fresh_ids(used: IntArray, count: int) -> IntArray:
    """``count`` consecutive 64-bit ids of which none is in ``used``."""
    top = int(used.max(initial=-1))
    first = top + 1
    if first > MAX_ID - count:  # hashed ids may reach the last one: take the widest gap between them
        ids = np.unique(used[used >= 0]).astype(np.uint64)
        begin = np.append(np.uint64(0), ids + np.uint64(1))
        end = np.append(ids, np.uint64(MAX_ID + 1))
        first = int(begin[int(np.argmax(end - begin))])
    return first + np.arange(count, dtype=np.int64)


def is_regular(trace: Trace) -> bool:
    """Whether every block has ``block_size`` tokens but for a shorter last one of a prompt."""
    if trace.block_size < 1:
        return False
    counts = np.diff(trace.block_start)
    if not np.array_equal(counts, -(-trace.prompt_tokens // trace.block_size)):
        return False
    even = Blocks.of_size(trace.prompt_tokens, counts, trace.block_id, trace.block_size)
    return np.array_equal(even.tokens, trace.block_tokens)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return bool(np.array_equal(a, b, equal_nan=a.dtype == np.float64))
    return bool(a == b)

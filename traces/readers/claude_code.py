"""Claude Code sessions as kv-cache-tester records them (callanjfox/kv-cache-tester): one JSON file a session.

``id``, ``block_size`` (64), ``hash_id_scope`` ("local": ids mean nothing in another file) and ``requests``,
each with ``t`` (s from the session's start), ``in`` and ``out`` (tokens), ``hash_ids`` (one id per full
64-token block, naming the block and everything before it) and, where recorded, ``api_time`` and
``think_time`` (s). An entry of type ``subagent`` holds ``requests`` of its own, timed from its start; its
``t`` is when it had ended and ``duration_ms`` how long it took.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from traces.errors import TraceError
from traces.readers.jsonl import IdColumn, decode_error
from traces.readers.turns import follow, leave_out_failed
from traces.schema import NONE, Blocks, Trace

if TYPE_CHECKING:
    from traces.readers.source import Source


class _Request(msgspec.Struct, rename={"prompt": "in", "output": "out"}):
    t: float
    prompt: int = 0
    output: int = 0
    hash_ids: list[int] = []
    api_time: float | None = None
    think_time: float | None = None
    type: str = "n"
    duration_ms: float = 0.0
    requests: list[_Request] = []


class _Session(msgspec.Struct):
    requests: list[_Request]
    block_size: int = 64
    hash_id_scope: str = "local"


@dataclass
class _Rows:
    """What the sessions read so far hold."""

    ids: IdColumn
    numbers: array[int] = field(default_factory=lambda: array("q"))  # session, parent, prompt, output, ids
    times: array[float] = field(default_factory=lambda: array("d"))  # arrival, think

    def __len__(self) -> int:
        return len(self.times) // 2


def recognise(source: Source) -> bool:
    """Whether a file is a session, or the first JSON file of a directory is."""
    members = source.members(".json")[:1] if source.is_folder else [source]
    return any(b'"requests"' in m.head and b'"hash_ids"' in m.head and m.head.lstrip()[:1] == b"{" for m in members)


def read(source: Source) -> Trace:
    """Read one session, or a directory of them; every session starts at 0 s.

    A request waits for the one before and then thinks. A sub-agent's requests are a chain of their own that
    waits for the request before the sub-agent; they belong to the same session, whose turns count in order of
    arrival.

    Args:
        source: A file or a directory.

    Raises:
        TraceError: A session is wrong.
    """
    files = source.members(".json") if source.is_folder else [source]
    if not files:
        raise TraceError(f"{source.path} is empty: it holds no .json sessions")
    rows = _Rows(IdColumn(source))
    block_size = base = 0
    for index, file in enumerate(files):
        session = _decode(file)
        if block_size not in (0, session.block_size):
            said = f"block_size is {session.block_size}, expected {block_size} as in the files before"
            raise TraceError(f"{file.path}: {said}")
        block_size = session.block_size
        local = session.hash_id_scope == "local"
        before = len(rows.ids)
        chain = _Chain(rows, file, index, block_size, base if local else 0)
        chain.add(session.requests, "requests", parent=NONE, parent_end=0.0, start=0.0)
        if local:
            base = max(base, rows.ids.highest(before) + 1)

    session_id, parent, prompt, output, count = np.array(rows.numbers).reshape(-1, 5).T.copy()
    arrival, think = np.array(rows.times).reshape(-1, 2).T
    turn, _ = follow(session_id, rank=arrival)
    trace = Trace.build(
        source.name,
        arrival_s=arrival,
        prompt_tokens=prompt,
        output_tokens=np.maximum(output, 1),
        blocks=Blocks.of_size(prompt, count, rows.ids.array(), block_size),
        block_size=block_size,
        session_id=session_id,
        turn=turn,
        parent_id=parent,
        think_s=think,
    )
    notes = (f"{len(files)} sessions, each from 0 s",) if len(files) > 1 else ()
    return leave_out_failed(trace.with_columns(notes=notes), output)  # sorting sessions together is no fault


@dataclass(frozen=True)
class _Chain:
    """Adds the requests of one session, and of its sub-agents, to the rows.

    Attributes:
        rows: Where they go.
        file: Where they are from.
        session: Its number.
        block_size: Tokens of a full block.
        base: What is added to its ids, so that those of two files never meet.
    """

    rows: _Rows
    file: Source
    session: int
    block_size: int
    base: int

    def add(self, requests: list[_Request], place: str, parent: int, parent_end: float, start: float) -> None:
        """Add requests that wait for one another.

        Args:
            requests: In order.
            place: What the file calls the list.
            parent: Row that the first waits for, or -1.
            parent_end: When that one ended in the recording, seconds.
            start: What the requests' times count from, seconds.

        Raises:
            TraceError: A request is wrong.
        """
        rows = self.rows
        for index, request in enumerate(requests):
            here = f"{place}[{index}]"
            if request.type == "subagent":
                started = max(start + request.t - request.duration_ms / 1000.0, parent_end)
                self.add(request.requests, f"{here}.requests", parent, parent_end, started)
                continue
            arrival = start + request.t
            count = len(request.hash_ids)
            self._check(request, here, arrival, rows.times[2 * parent] if parent != NONE else 0.0)
            think = request.think_time if request.think_time is not None and index else arrival - parent_end
            try:
                rows.ids.append([self.base + word for word in request.hash_ids])
                rows.numbers.extend((self.session, parent, request.prompt, request.output, count))
            except OverflowError:
                raise TraceError(f"{self.file.path}, {here}: a number does not fit 64 bits") from None
            rows.times.extend((arrival, 0.0 if parent == NONE else max(think, 0.0)))
            parent = len(rows) - 1
            parent_end = arrival + (request.api_time or 0.0)

    def _check(self, request: _Request, here: str, arrival: float, earliest: float) -> None:
        full, needed = request.prompt // self.block_size, -(-request.prompt // self.block_size)
        count = len(request.hash_ids)
        fault = ""
        if request.prompt < 1:
            fault = f"in is {request.prompt}, expected at least 1 token"
        elif request.output < 0:
            fault = f"out is {request.output}, expected 0 tokens or more"
        elif not earliest <= arrival < float("inf"):
            fault = f"t is {request.t}, expected no earlier than the request before"
        elif count not in (full, needed):
            fault = f"hash_ids has {count} ids, expected {full} or {needed} for {request.prompt} tokens"
        if fault:
            raise TraceError(f"{self.file.path}, {here}: {fault}")


def _decode(file: Source) -> _Session:
    data = file.content()
    try:
        return msgspec.json.decode(data, type=_Session)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise decode_error(file, 1, data, error) from None

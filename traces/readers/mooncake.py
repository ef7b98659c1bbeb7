"""Mooncake's traces of Kimi, and the fields AIPerf adds to them.

One JSON object a line: ``timestamp`` (ms), ``input_length`` and ``output_length`` (tokens), ``hash_ids`` (one
64-bit id per 512-token block; an id names the block and everything before it). Qin et al., Mooncake, FAST
2025. AIPerf adds ``session_id`` and ``delay`` (ms after the session's turn before): a turn's line then holds
only what it adds to the conversation, unless its ``context_mode`` says that it holds all of it.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from traces.readers.jsonl import IdColumn, records
from traces.readers.turns import accumulate, follow, number
from traces.schema import NONE, Blocks, Trace, fresh_ids

if TYPE_CHECKING:
    from traces.readers.source import Source
    from traces.schema import BoolArray, FloatArray, IntArray

MIN_TICK_S = 1.0  # coarser timestamps than this are ticks of a clock, not arrivals
TICK_SLACK = 0.005  # of a tick: rounding leaves 2,997 to 3,003 ms between ticks of 3,000
WHOLE_CONTEXT = "message_array_with_responses"


class _Line(msgspec.Struct):
    input_length: int
    output_length: int
    timestamp: float | None = None
    hash_ids: list[int] | None = None
    session_id: str | int | None = None
    delay: float | None = None
    context_mode: str | None = None


def recognise(source: Source) -> bool:
    """Whether the first line is a request of this format."""
    fields = source.json_fields
    return {"input_length", "output_length"} <= fields and "chat_id" not in fields


def read(source: Source, *, spread_ticks: bool = True, seed: int = 0, block_size: int = 512) -> Trace:
    """Read a Mooncake or AIPerf trace.

    Args:
        source: The file.
        spread_ticks: Where the timestamps are ticks of a coarse clock (3 s in ``conversation``), spread each
            tick's requests over the tick: uniformly at random, in file order. A note says so.
        seed: Of the spreading.
        block_size: Tokens of a full block.

    Raises:
        TraceError: A line is wrong.
    """
    lengths, counts, times = array("q"), array("q"), array("d")
    sessions: list[str | int | None] = []
    whole = array("b")
    ids = IdColumn(source)
    for line_number, line in records(source, _Line):
        try:
            lengths.extend((line.input_length, line.output_length))
        except OverflowError:
            raise source.error(line_number, "input_length and output_length must fit 64 bits") from None
        times.extend((np.nan if line.timestamp is None else line.timestamp, line.delay or 0.0))
        hashes = line.hash_ids or []
        counts.append(len(hashes))
        ids.extend(line_number, "hash_ids", hashes)
        sessions.append(line.session_id)
        whole.append(line.context_mode == WHOLE_CONTEXT)

    prompt, output = np.array(lengths).reshape(-1, 2).T.copy()
    stamp, delay = np.array(times).reshape(-1, 2).T
    count = np.array(counts)
    source.require(prompt >= 1, "input_length", prompt, "at least 1 token")
    source.require(output >= 1, "output_length", output, "at least 1 token")
    source.require(~(stamp < 0) & ~np.isinf(stamp), "timestamp", stamp, "0 ms or more")
    source.require((delay >= 0) & np.isfinite(delay), "delay", delay, "0 ms or more")
    _require_ids(source, prompt, count, block_size)

    session = number(sessions)
    turn, parent = follow(session)
    blocks = Blocks.of_size(prompt, count, ids.array(), block_size)
    output_id = fresh_ids(blocks.id, len(prompt))
    notes: tuple[str, ...] = ()
    arrival = stamp / 1000.0
    tick = _tick_s(arrival) if spread_ticks else 0.0
    if tick:
        arrival = _spread(arrival, tick, seed)
        notes += (f"arrivals: each {tick:g} s tick of timestamps spread uniformly over itself, seed {seed}",)
    think = np.where(parent == NONE, 0.0, delay / 1000.0)
    adds = (parent != NONE) & ~np.array(whole, dtype=np.bool_)
    if adds.any():
        blocks = accumulate(blocks, adds, turn, parent, output_id, output)
        prompt = np.add.reduceat(blocks.tokens, blocks.start[:-1])
        block_size = 0
        notes += ("prompts: a session's lines hold what each turn adds, so the turns before were put in front",)
    return Trace.build(
        source.name,
        arrival_s=_after_parents(arrival, parent, think),
        prompt_tokens=prompt,
        output_tokens=output,
        blocks=blocks if len(ids) or adds.any() else None,
        block_size=block_size if len(ids) else 0,
        notes=notes,
        session_id=session,
        turn=turn,
        parent_id=parent,
        think_s=think,
        output_id=output_id,
    )


def _require_ids(source: Source, prompt: IntArray, count: IntArray, block_size: int) -> None:
    needed = -(-prompt // block_size)
    fits = (count == needed) | (count == 0)
    if not fits.all():
        row = int(fits.argmin())
        raise source.error_at(
            row,
            f"hash_ids has {count[row]} ids, expected {needed[row]} for an input_length of {prompt[row]} "
            f"in blocks of {block_size} tokens (option block_size)",
        )


def _tick_s(arrival: FloatArray) -> float:
    """The clock's tick in seconds, or 0 where the timestamps are as fine as arrivals are."""
    stamps = np.unique(arrival[~np.isnan(arrival)])
    if len(stamps) < 2:
        return 0.0
    tick = float(np.median(np.diff(stamps)))
    off = np.abs(stamps - np.round(stamps / tick) * tick)
    shared = len(stamps) < len(arrival)
    return tick if shared and tick >= MIN_TICK_S and bool((off <= TICK_SLACK * tick).all()) else 0.0


def _spread(arrival: FloatArray, tick: float, seed: int) -> FloatArray:
    """Within each tick, sorted uniform offsets: a Poisson process given its count, in file order."""
    ticks = np.round(arrival / tick)
    offset = np.random.default_rng(seed).random(len(arrival))
    place = np.argsort(ticks, kind="stable")
    spread = np.empty_like(arrival)
    spread[place] = tick * (ticks[place] + offset[np.lexsort((offset, ticks))])
    return spread


def _after_parents(arrival: FloatArray, parent: IntArray, think: FloatArray) -> FloatArray:
    """Arrivals of turns without a timestamp: the parent's plus the think time, the earliest that can be."""
    known: BoolArray = ~np.isnan(arrival)
    if known.all():
        return arrival
    filled = np.where(known, arrival, 0.0)
    for row in np.flatnonzero(~known & (parent != NONE)).tolist():
        filled[row] = filled[parent[row]] + think[row]
    return filled

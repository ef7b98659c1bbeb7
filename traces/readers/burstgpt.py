"""BurstGPT's traces of an Azure OpenAI service on a campus.

CSV with ``Timestamp`` (s), ``Model``, ``Request tokens``, ``Response tokens``, ``Total tokens``, ``Log
Type``; version 2 adds ``Session ID`` (blank for API calls) and ``Elapsed time`` (s). A request that failed
has no response tokens. No prefixes. Wang et al., BurstGPT, KDD 2025.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from traces.errors import TraceError
from traces.readers.table import columns
from traces.readers.turns import follow
from traces.schema import NONE, Trace

if TYPE_CHECKING:
    from traces.readers.source import Source
    from traces.readers.table import Kind

PROMPT, OUTPUT = "Request tokens", "Response tokens"
SESSION, ELAPSED = "Session ID", "Elapsed time"


def recognise(source: Source) -> bool:
    """Whether the header is this format's."""
    return {"Timestamp", PROMPT, OUTPUT} <= set(source.csv_fields())


def read(source: Source) -> Trace:
    """Read a BurstGPT trace; its earliest request arrives at 0 s.

    Failed requests are left out, and a note counts them. In version 2 a session's request waits for the one
    before and thinks for as long as the recording leaves between that one's end and itself.

    Args:
        source: The file.

    Raises:
        TraceError: A line is wrong.
    """
    kinds: dict[str, Kind] = {"Timestamp": "float", PROMPT: "int", OUTPUT: "int"}
    if SESSION in source.csv_fields():
        kinds |= {SESSION: "label", ELAPSED: "float"}
    table = columns(source, kinds)
    stamp, output = table["Timestamp"], table[OUTPUT]
    source.require(np.isfinite(stamp) & (stamp >= 0), "Timestamp", stamp, "0 s or more", preamble=1)
    source.require(output >= 0, OUTPUT, output, "0 tokens or more", preamble=1)
    source.require((table[PROMPT] >= 1) | (output == 0), PROMPT, table[PROMPT], "at least 1 token", preamble=1)
    answered = output > 0
    failed = len(output) - int(answered.sum())
    if failed == len(output):
        raise TraceError(f"{source.path} is empty: none of its {failed} requests has {OUTPUT}")
    arrival = (stamp - stamp.min())[answered]
    session = table[SESSION][answered] if SESSION in kinds else np.full(len(arrival), NONE)
    turn, parent = follow(session, rank=arrival)
    think = np.zeros(len(arrival))
    if SESSION in kinds:
        ended = arrival + np.nan_to_num(table[ELAPSED][answered])
        think = np.where(parent == NONE, 0.0, np.maximum(arrival - ended[parent], 0.0))
    return Trace.build(
        source.name,
        arrival_s=arrival,
        prompt_tokens=table[PROMPT][answered],
        output_tokens=output[answered],
        notes=(f"{failed} failed requests (no {OUTPUT}) left out",) if failed else (),
        session_id=session,
        turn=turn,
        parent_id=parent,
        think_s=think,
    )

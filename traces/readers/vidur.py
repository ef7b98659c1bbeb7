"""Vidur's processed traces.

CSV with ``num_prefill_tokens,num_decode_tokens`` and, in most, ``arrived_at`` (s).
Agrawal et al., Vidur, MLSys 2024.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from traces.readers.table import columns
from traces.schema import Trace

if TYPE_CHECKING:
    from traces.readers.source import Source
    from traces.readers.table import Kind

ARRIVAL = "arrived_at"


def recognise(source: Source) -> bool:
    """Whether the header is this format's."""
    return {"num_prefill_tokens", "num_decode_tokens"} <= set(source.csv_fields())


def read(source: Source) -> Trace:
    """Read a Vidur trace; without arrivals all requests arrive at 0 s, and a note says so.

    Args:
        source: The file.

    Raises:
        TraceError: A line is wrong.
    """
    timed = ARRIVAL in source.csv_fields()
    kinds: dict[str, Kind] = {"num_prefill_tokens": "int", "num_decode_tokens": "int"}
    table = columns(source, {**kinds, ARRIVAL: "float"} if timed else kinds)
    prompt, output = table["num_prefill_tokens"], table["num_decode_tokens"]
    arrival = table[ARRIVAL] if timed else np.zeros(len(prompt))
    source.require(prompt >= 1, "num_prefill_tokens", prompt, "at least 1 token", preamble=1)
    source.require(output >= 1, "num_decode_tokens", output, "at least 1 token", preamble=1)
    source.require(np.isfinite(arrival) & (arrival >= 0), ARRIVAL, arrival, "0 s or more", preamble=1)
    return Trace.build(
        source.name,
        arrival_s=arrival,
        prompt_tokens=prompt,
        output_tokens=output,
        notes=() if timed else ("the source has lengths only: every request arrives at 0 s",),
    )

"""Azure's LLM inference traces of 2023 and 2024.

CSV with ``TIMESTAMP,ContextTokens,GeneratedTokens``: times of 7 decimals without a zone (2023) or of 6 with
one (2024), CRLF or LF. No sessions, no prefixes. Patel et al., Splitwise, ISCA 2024; Stojkovic et al.,
DynamoLLM, HPCA 2025. The multimodal trace of 2025 has one column more, ``NumImages``, whose tokens
``ContextTokens`` counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from traces.readers.table import columns
from traces.readers.turns import leave_out_failed
from traces.schema import Trace

if TYPE_CHECKING:
    from traces.readers.source import Source


def recognise(source: Source) -> bool:
    """Whether the header is this format's."""
    return {"TIMESTAMP", "ContextTokens", "GeneratedTokens"} <= set(source.csv_fields())


def read(source: Source) -> Trace:
    """Read an Azure trace; its earliest request arrives at 0 s.

    Requests that produced no token are left out, and a note counts them.

    Args:
        source: The file.

    Raises:
        TraceError: A line is wrong.
    """
    table = columns(source, {"TIMESTAMP": "time", "ContextTokens": "int", "GeneratedTokens": "int"})
    time, prompt, output = table["TIMESTAMP"], table["ContextTokens"], table["GeneratedTokens"]
    source.require(prompt >= 1, "ContextTokens", prompt, "at least 1 token", preamble=1)
    source.require(output >= 0, "GeneratedTokens", output, "0 tokens or more", preamble=1)
    trace = Trace.build(
        source.name,
        arrival_s=(time - time.min()) / np.timedelta64(1, "s"),
        prompt_tokens=prompt,
        output_tokens=np.maximum(output, 1),
    )
    return leave_out_failed(trace, output)

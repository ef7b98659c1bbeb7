"""LLMServingSim's workloads: one JSON object a line, with token ids where recorded.

``input_toks`` and ``output_toks`` (tokens), ``arrival_time_ns``, and optionally ``input_tok_ids`` and
``output_tok_ids``. Cho et al., LLMServingSim, IISWC 2024.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from traces.readers.jsonl import IdColumn, records
from traces.schema import Blocks, Trace

if TYPE_CHECKING:
    from traces.readers.source import Source


class _Line(msgspec.Struct):
    input_toks: int
    output_toks: int
    arrival_time_ns: int
    input_tok_ids: list[int] | None = None


def recognise(source: Source) -> bool:
    """Whether the first line is a request of this format."""
    return {"input_toks", "output_toks", "arrival_time_ns"} <= source.json_fields


def read(source: Source) -> Trace:
    """Read an LLMServingSim workload; where it has token ids, every token is a block of its own.

    Args:
        source: The file.

    Raises:
        TraceError: A line is wrong.
    """
    numbers = array("q")
    tokens = IdColumn(source)
    for line_number, line in records(source, _Line):
        ids = line.input_tok_ids or []
        tokens.extend(line_number, "input_tok_ids", ids)
        try:
            numbers.extend((line.input_toks, line.output_toks, line.arrival_time_ns, len(ids)))
        except OverflowError:
            raise source.error(line_number, "a number does not fit 64 bits") from None
    prompt, output, arrival, count = np.array(numbers).reshape(-1, 4).T.copy()
    source.require(prompt >= 1, "input_toks", prompt, "at least 1 token")
    source.require(output >= 1, "output_toks", output, "at least 1 token")
    source.require(arrival >= 0, "arrival_time_ns", arrival, "0 ns or more")
    fits = (count == prompt) | (count == 0)
    source.require(fits, "length of input_tok_ids", count, "as many as input_toks, or none")
    return Trace.build(
        source.name,
        arrival_s=arrival / 1e9,
        prompt_tokens=prompt,
        output_tokens=output,
        blocks=Blocks.of_size(prompt, count, tokens.array(), block_size=1) if len(tokens) else None,
        block_size=int(bool((count == prompt).all())),
    )

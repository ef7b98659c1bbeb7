"""When each block is used again: what stack distances and clairvoyance are made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from harness.cache.accesses import Accesses
    from traces.schema import IntArray


@dataclass(frozen=True, eq=False)
class Reuse:
    """Runs of neighbouring blocks of one request that the same later request uses next.

    A block is used whenever one behind it is, so along a prompt the next use never comes sooner: there are few runs.

    Attributes:
        requests: Requests of the trace.
        request: (runs,) who uses the run, in order.
        next: (runs,) the next request that does, ``requests`` where none.
        depth: (runs,) blocks before it in the prompt.
        blocks: (runs,) its length.
    """

    requests: int
    request: IntArray
    next: IntArray
    depth: IntArray
    blocks: IntArray


def find_reuse(accesses: Accesses) -> Reuse:
    """The runs of all requests."""
    n = len(accesses)
    counts = np.diff(accesses.start)
    row = np.repeat(np.arange(n), counts)
    order = np.argsort(accesses.block, kind="stable")
    again = np.full(len(row), n)
    same = accesses.block[order[1:]] == accesses.block[order[:-1]]
    again[order[:-1][same]] = row[order[1:][same]]
    begins = np.ones(len(row), dtype=np.bool_)
    begins[1:] = (again[1:] != again[:-1]) | (row[1:] != row[:-1])
    first = np.flatnonzero(begins)
    blocks = np.diff(np.append(first, len(row)))
    return Reuse(n, row[first], again[first], first - accesses.start[row[first]], blocks)

"""A trace as a prefix cache sees it: for each request the blocks of its prompt, each named by its whole prefix."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from harness.cache.errors import CacheError
from traces.paths import find_paths
from traces.schema import NONE, offsets
from traces.transforms import recover_sessions

if TYPE_CHECKING:
    from traces.schema import FloatArray, IntArray, Trace


class Reader(NamedTuple):
    """Who looks up a prompt, as an eviction policy sees it (:class:`policies.views.RequestView`)."""

    request_id: int
    priority: int = 0
    session_id: int = NONE
    client_id: int = NONE


@dataclass(frozen=True, eq=False)
class Accesses:
    """The lookups of a trace, in order.

    Answers are left out, as the public traces leave them out: where a later prompt contains an answer, that prompt
    brings it.

    Attributes:
        start: (requests + 1,) where each request's blocks begin, and the end of the last.
        block: (accesses,) int32 number of each block: equal numbers are equal prefixes.
        prompt_tokens: (requests,) lengths.
        arrival_s: (requests,) seconds.
        block_size: Tokens of a block; the last one of a prompt may be shorter, and counts as one all the same.
        readers: Who each request is.
    """

    start: IntArray
    block: npt.NDArray[np.int32]
    prompt_tokens: IntArray
    arrival_s: FloatArray
    block_size: int
    readers: tuple[Reader, ...]

    def __len__(self) -> int:
        return len(self.prompt_tokens)

    @cached_property
    def distinct(self) -> int:
        """Different blocks: what a cache that forgets nothing comes to hold."""
        return len(np.unique(self.block))

    def cached_tokens(self, hits: IntArray) -> IntArray:
        """Prompt tokens that need no computing: the last one always does, for its logits.

        Args:
            hits: (..., requests) blocks found at the front of each prompt.
        """
        return np.minimum(hits * self.block_size, self.prompt_tokens - 1)


def cut(trace: Trace, block_size: int | None = None) -> Accesses:
    """The prompts of a trace in blocks.

    Where the trace names no sessions, they are those that :func:`recover_sessions` finds by earlier prompts.

    Args:
        trace: One that names prefixes.
        block_size: Tokens a block; without, the trace's own.

    Raises:
        CacheError: The trace names no prefixes, or no block size is known, or it is not positive.
    """
    if not trace.has_blocks:
        raise CacheError(
            f"trace {trace.name!r} names no prefixes: a cache finds nothing in it. "
            "`python -m harness trace list` shows those that do"
        )
    size = block_size or trace.block_size
    if block_size is None and not size:
        raise CacheError(f"trace {trace.name!r} has blocks of no fixed size: name one in tokens, e.g. --block 16")
    if size < 1:
        raise CacheError(f"--block {size}: expected a positive number of tokens, e.g. --block 16")
    counts = -(-trace.prompt_tokens // size)
    start = offsets(counts)
    depth = np.arange(start[-1]) - np.repeat(start[:-1], counts)
    before = offsets(trace.prompt_tokens)
    # A block is known by the path that covers its last token, and by where it lies on it.
    end = np.minimum((depth + 1) * size, np.repeat(trace.prompt_tokens, counts)) + np.repeat(before[:-1], counts)
    covering = np.searchsorted(np.cumsum(trace.block_tokens), end - 1, side="right")
    names = find_paths(trace).of_block[covering] * (int(counts.max()) + 1) + depth
    numbers = np.unique(names, return_inverse=True)[1]
    named = recover_sessions(trace) if (trace.session_id == NONE).any() else trace
    columns = (named.request_id, named.priority, named.session_id, named.client_id)
    readers = tuple(map(Reader, *(column.tolist() for column in columns)))
    return Accesses(start, numbers.astype(np.int32), trace.prompt_tokens, trace.arrival_s, size, readers)

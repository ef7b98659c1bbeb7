"""What a trace is like: lengths, rate, burstiness, sessions, and the best a prefix cache could do with it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from traces.errors import TraceError
from traces.paths import Paths, find_paths
from traces.schema import NONE, FloatArray, IntArray, Trace

MOST_WINDOWS = 1_000_000


@dataclass(frozen=True)
class Lengths:
    """Spread of one length over the requests, tokens (percentiles: NumPy linear)."""

    mean: float
    p50: float
    p90: float
    p99: float
    max: int


@dataclass(frozen=True)
class Stats:
    """A trace in numbers.

    Attributes:
        requests: How many.
        duration_s: From the first arrival to the last.
        rate: Requests per second over the duration; NaN where it is zero.
        burstiness_cv: Coefficient of variation of the gaps between arrivals: 1 for Poisson; NaN under three
            requests or where all arrive at once.
        prompt: Prompt lengths.
        output: Output lengths.
        prompt_tokens: Of all prompts.
        output_tokens: Of all answers.
        has_blocks: Whether the source names prefixes; where not, nothing is shared.
        footprint_tokens: Of the distinct prefixes of all prompts, which a cache that forgets nothing holds.
        ideal_hit_ratio: Of :func:`ideal_cached_tokens`, over all prompt tokens.
        window_s: Length of the windows of the next three.
        window_start_s: Where each window begins, shape (windows,).
        window_requests: Arrivals in each window.
        window_hit_ratio: Ideal hit ratio of each window's requests, NaN in an empty window.
        sessions: Sessions named by the source; a request without one counts for none.
        turns: Mean requests of a named session; NaN without sessions.
        followups: Requests whose prompt goes on from an earlier one, past its first block or from its answer.
        chained: Requests that wait for a parent.
    """

    requests: int
    duration_s: float
    rate: float
    burstiness_cv: float
    prompt: Lengths
    output: Lengths
    prompt_tokens: int
    output_tokens: int
    has_blocks: bool
    footprint_tokens: int
    ideal_hit_ratio: float
    window_s: float
    window_start_s: FloatArray
    window_requests: IntArray
    window_hit_ratio: FloatArray
    sessions: int
    turns: float
    followups: int
    chained: int


def describe(trace: Trace, window_s: float = 600.0) -> Stats:
    """Measure a trace.

    Args:
        trace: At least one request.
        window_s: Length of the windows of the hit ratio over time, seconds.

    Raises:
        TraceError: ``window_s`` is not a positive number, or far too short for the trace.
    """
    if not 0 < window_s < np.inf:
        raise TraceError(f"window_s is {window_s}, expected a positive number of seconds")
    duration = float(trace.arrival_s[-1] - trace.arrival_s[0])
    if duration / window_s > MOST_WINDOWS:
        raise TraceError(
            f"window_s is {window_s} of a trace that lasts {duration:g} s: more than {MOST_WINDOWS:,} windows"
        )
    paths = find_paths(trace)
    cached = _cached_tokens(trace, paths, np.arange(len(trace)))
    gaps = np.diff(trace.arrival_s)
    window = ((trace.arrival_s - trace.arrival_s[0]) // window_s).astype(np.int64)
    prompts = np.bincount(window, weights=trace.prompt_tokens)
    hits = np.bincount(window, weights=cached)
    _, of_session = np.unique(trace.session_id[trace.session_id != NONE], return_counts=True)
    return Stats(
        requests=len(trace),
        duration_s=duration,
        rate=len(trace) / duration if duration else np.nan,
        burstiness_cv=float(gaps.std() / gaps.mean()) if len(gaps) > 1 and duration else np.nan,
        prompt=_lengths(trace.prompt_tokens),
        output=_lengths(trace.output_tokens),
        prompt_tokens=int(trace.prompt_tokens.sum()),
        output_tokens=int(trace.output_tokens.sum()),
        has_blocks=trace.has_blocks,
        footprint_tokens=int(_path_tokens(trace, paths).sum()),
        ideal_hit_ratio=float(cached.sum() / trace.prompt_tokens.sum()),
        window_s=window_s,
        window_start_s=np.arange(len(prompts), dtype=np.float64) * window_s,
        window_requests=np.bincount(window),
        window_hit_ratio=np.divide(hits, prompts, out=np.full(len(prompts), np.nan), where=prompts > 0),
        sessions=len(of_session),
        turns=float(of_session.mean()) if len(of_session) else np.nan,
        followups=int(_is_followup(trace, paths).sum()),
        chained=int((trace.parent_id != NONE).sum()),
    )


def ideal_cached_tokens(trace: Trace, order: npt.ArrayLike | None = None) -> IntArray:
    """Tokens that an unbounded prefix cache would not recompute: shape (n,), by row.

    A block hits where the same prefix, the block included, was in an earlier prompt, or is an earlier prompt
    with its answer (of which the last token's KV is never computed). At most ``prompt_tokens - 1``: the last
    token must be computed for there to be logits.

    Args:
        trace: The requests.
        order: All rows, in the order they are served; without, the order of the trace.

    Raises:
        ValueError: ``order`` does not hold every row once.
    """
    rows = np.arange(len(trace))
    served = rows if order is None else np.asarray(order, np.int64)
    if not np.array_equal(np.sort(served), rows):
        raise ValueError(f"order must hold each of the {len(trace)} rows once")
    return _cached_tokens(trace, find_paths(trace), served)


def _cached_tokens(trace: Trace, paths: Paths, order: IntArray) -> IntArray:
    served = np.empty(len(trace), np.int64)
    served[order] = np.arange(len(trace))
    blocks = np.diff(trace.block_start)
    named = np.flatnonzero(paths.of_output != NONE)
    # Who brings a prefix into the cache: prompts all tokens of a block, answers all but the last.
    path = np.concatenate((paths.of_block, paths.of_output[named]))
    when = np.concatenate((np.repeat(served, blocks), served[named]))
    brought = np.concatenate((trace.block_tokens, trace.output_tokens[named] - 1))
    by_time = np.argsort(path * len(trace) + when, kind="stable")
    # The most that came before within each path: a running maximum, kept apart by a step between paths.
    step = int(brought.max(initial=0)) + 1
    floor = path[by_time] * step
    most = np.maximum.accumulate(floor + brought[by_time])
    before = np.zeros(len(path), np.int64)
    before[1:] = np.maximum(most[:-1] - floor[1:], 0)
    hit = np.empty(len(path), np.int64)
    hit[by_time] = before
    hit = np.minimum(hit[: len(trace.block_id)], trace.block_tokens)
    total = np.concatenate(([0], np.cumsum(hit)))
    cached: IntArray = total[trace.block_start[1:]] - total[trace.block_start[:-1]]
    return np.minimum(cached, trace.prompt_tokens - 1)


def _path_tokens(trace: Trace, paths: Paths) -> IntArray:
    """Tokens of each path's last block, 0 where it is never in a prompt."""
    tokens = np.zeros(len(paths), np.int64)
    np.maximum.at(tokens, paths.of_block, trace.block_tokens)
    return tokens


def _is_followup(trace: Trace, paths: Paths) -> npt.NDArray[np.bool_]:
    """Whether a prompt has within it the whole blocks of an earlier one, more than one, or its answer."""
    rows = np.arange(len(trace))
    last = trace.block_start[1:] - 1
    whole = np.diff(trace.block_start) - (trace.block_tokens[last] < trace.block_size)
    long = whole > 1
    first_end = np.full(len(paths), len(trace))  # the first row that ends there
    np.minimum.at(first_end, paths.of_block[(trace.block_start[:-1] + whole - 1)[long]], rows[long])
    named = paths.of_output != NONE
    np.minimum.at(first_end, paths.of_output[named], rows[named])
    return np.minimum.reduceat(first_end[paths.of_block], trace.block_start[:-1]) < rows


def _lengths(tokens: IntArray) -> Lengths:
    p50, p90, p99 = np.percentile(tokens, (50, 90, 99)).tolist()
    return Lengths(float(tokens.mean()), p50, p90, p99, int(tokens.max()))

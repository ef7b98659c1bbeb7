"""Make one trace of another: pure functions, each leaving a note of what it did."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from traces.errors import TraceError
from traces.paths import find_paths
from traces.schema import NONE, REQUEST_COLUMNS, Trace, is_regular, offsets

if TYPE_CHECKING:
    from collections.abc import Sequence

    from traces.schema import BoolArray, IntArray


def window(trace: Trace, start_s: float, end_s: float) -> Trace:
    """The requests that arrive in ``[start_s, end_s)``; the trace then begins at ``start_s``.

    Raises:
        TraceError: None does.
    """
    keep = (trace.arrival_s >= start_s) & (trace.arrival_s < end_s)
    cut = _keep(trace, keep, f"window of {start_s:g} s to {end_s:g} s")
    return cut.with_columns(arrival_s=cut.arrival_s - start_s)


def head(trace: Trace, requests: int) -> Trace:
    """The first requests.

    Raises:
        TraceError: Less than one is asked for.
    """
    return _keep(trace, np.arange(len(trace)) < requests, f"head of {requests}")


def scale_rate(trace: Trace, factor: float) -> Trace:
    """The same requests, ``factor`` times as many a second; think times stay.

    Raises:
        TraceError: The factor is not a positive number.
    """
    _require_positive("rate factor", factor)
    return trace.with_columns(arrival_s=trace.arrival_s / factor).noted(f"rate x {factor:g}")


def scale_time(trace: Trace, factor: float) -> Trace:
    """Everything ``factor`` times as slow: arrivals and think times.

    Raises:
        TraceError: The factor is not a positive number.
    """
    _require_positive("time factor", factor)
    scaled = trace.with_columns(arrival_s=trace.arrival_s * factor, think_s=trace.think_s * factor)
    return scaled.noted(f"time x {factor:g}")


def at_rate(trace: Trace, requests_per_s: float) -> Trace:
    """The same requests at a mean rate, between the first arrival and the last; think times stay.

    Raises:
        TraceError: The rate is not a positive number, or all requests arrive at once.
    """
    _require_positive("rate", requests_per_s)
    span = float(trace.arrival_s[-1] - trace.arrival_s[0])
    if span <= 0:
        raise TraceError(f"trace {trace.name!r} has no rate to scale: all its requests arrive at once")
    factor = requests_per_s * span / (len(trace) - 1)
    scaled = trace.with_columns(arrival_s=trace.arrival_s / factor)
    return scaled.noted(f"rate {requests_per_s:g} requests/s (x {factor:.6g})")


def sample(trace: Trace, fraction: Fraction | str, seed: int = 0) -> Trace:
    """Whole sessions, chosen by a fixed hash of the session id; arrival times stay.

    Requests without a session belong to the one that :func:`recover_sessions` finds, or are alone where the
    trace names no prefixes. A session is in the sample of a fraction or not, whatever else the trace holds;
    the sample of a smaller fraction is within that of a larger one.

    Args:
        trace: What to sample.
        fraction: Share of the sessions, such as ``"1/8"``.
        seed: Another one draws another sample.

    Raises:
        TraceError: The fraction is not within (0, 1], or the sample is empty.
    """
    share = _fraction(fraction)
    sessions = trace.session_id
    if (sessions == NONE).any():
        sessions = recover_sessions(trace).session_id if trace.has_blocks else _own_sessions(trace)
    return _keep(trace, _chosen(sessions, share, seed), f"sample of {share} of the sessions, seed {seed}")


def thin(trace: Trace, fraction: Fraction | str, seed: int = 0) -> Trace:
    """Single requests, chosen by a fixed hash of the request id; arrival times stay.

    Args:
        trace: What to thin.
        fraction: Share of the requests, such as ``"1/8"``.
        seed: Another one draws other requests.

    Raises:
        TraceError: The fraction is not within (0, 1], or nothing is left.
    """
    share = _fraction(fraction)
    keep = _chosen(trace.request_id, share, seed)
    return _keep(trace, keep, f"thinned to {share} of the requests, seed {seed}")


def merge(traces: Sequence[Trace]) -> Trace:
    """All requests of several traces, by arrival; ids of two traces never meet.

    Raises:
        TraceError: There is no trace.
    """
    if not traces:
        raise TraceError("nothing to merge: name at least one trace")
    split = offsets(np.array([len(trace) for trace in traces]))[1:-1]
    requests = _apart([np.concatenate((trace.request_id, trace.parent_id)) for trace in traces])
    blocks = _apart([np.concatenate((trace.output_id, trace.block_id)) for trace in traces])
    table = {column: np.concatenate([getattr(t, column) for t in traces]) for column in REQUEST_COLUMNS}
    table["request_id"] = np.concatenate([ids[: len(t)] for ids, t in zip(requests, traces, strict=True)])
    table["parent_id"] = np.concatenate([ids[len(t) :] for ids, t in zip(requests, traces, strict=True)])
    table["output_id"] = np.concatenate([ids[: len(t)] for ids, t in zip(blocks, traces, strict=True)])
    for column in ("session_id", "client_id"):
        table[column] = np.concatenate(_apart(np.split(table[column], split)))
    block_sizes = {trace.block_size for trace in traces}
    merged = Trace(
        name="+".join(trace.name for trace in traces),
        **table,
        block_start=offsets(np.concatenate([np.diff(trace.block_start) for trace in traces])),
        block_id=np.concatenate([ids[len(t) :] for ids, t in zip(blocks, traces, strict=True)]),
        block_tokens=np.concatenate([trace.block_tokens for trace in traces]),
        block_size=block_sizes.pop() if len(block_sizes) == 1 else 0,
        has_blocks=any(trace.has_blocks for trace in traces),
        notes=tuple(f"{trace.name}: {note}" for trace in traces for note in trace.notes),
    )
    return merged.take(np.argsort(merged.arrival_s, kind="stable")).noted(f"merge of {len(traces)} traces")


def cap_lengths(trace: Trace, prompt: int | None = None, output: int | None = None, total: int | None = None) -> Trace:
    """No request longer than this; prompts lose blocks from their end.

    Args:
        trace: What to cap.
        prompt: The longest prompt, tokens.
        output: The longest answer, tokens.
        total: The longest prompt with its answer, tokens. The prompt gives way, down to one token.

    Raises:
        TraceError: A cap leaves no room for a token of the prompt or of the answer.
    """
    caps = {"prompt": prompt, "output": output, "total": total}
    for name, cap in caps.items():
        if cap is not None and cap < (2 if name == "total" else 1):
            raise TraceError(f"cap of {name} tokens is {cap}, expected at least {2 if name == 'total' else 1}")
    outputs, prompts, asked = trace.output_tokens, trace.prompt_tokens, trace.max_tokens
    if output is not None:
        outputs, asked = np.minimum(outputs, output), np.minimum(asked, output)
    if prompt is not None:
        prompts = np.minimum(prompts, prompt)
    if total is not None:
        outputs = np.minimum(outputs, total - 1)
        prompts = np.minimum(prompts, total - outputs)
        asked = np.minimum(asked, total - prompts)

    counts = np.diff(trace.block_start)
    before = offsets(trace.block_tokens)
    begin = before[:-1] - np.repeat(before[trace.block_start[:-1]], counts)  # of each block in its prompt
    tokens = np.minimum(trace.block_tokens, np.repeat(prompts, counts) - begin)
    stays = tokens > 0
    kept = np.add.reduceat(stays.astype(np.int64), trace.block_start[:-1])
    shorter = int(((prompts < trace.prompt_tokens) | (outputs < trace.output_tokens)).sum())
    said = ", ".join(f"{name} {cap}" for name, cap in caps.items() if cap is not None)
    return trace.with_columns(
        prompt_tokens=prompts,
        output_tokens=outputs,
        max_tokens=asked,
        block_start=offsets(kept),
        block_id=trace.block_id[stays],
        block_tokens=tokens[stays],
    ).noted(f"lengths capped ({said} tokens): {shorter} requests shortened")


def recover_sessions(trace: Trace, link_parents: bool = False) -> Trace:
    """Sessions of a trace that has none, from prefixes.

    A request follows up the latest earlier request whose prompt it extends past that one's first block: it
    begins with all the full blocks of that prompt, two or more. A request that follows none begins a session,
    named by its id; turns count in order of arrival. Requests that have a session keep it.

    Args:
        trace: One that names prefixes.
        link_parents: Also make a follow-up wait for the request that it follows (without think time: the
            source does not say when that one ended).

    Raises:
        TraceError: The trace names no prefixes.
    """
    if not trace.has_blocks:
        raise TraceError(f"trace {trace.name!r} names no prefixes: there is nothing to recover sessions from")
    alone = trace.session_id == NONE
    parent = np.where(alone, _follows(trace), NONE)
    parent[(parent != NONE) & ~alone[parent]] = NONE
    root = np.where(parent == NONE, np.arange(len(trace)), parent)
    while not np.array_equal(root[root], root):
        root = root[root]
    session = np.where(alone, _own_sessions(trace)[root], trace.session_id)
    order = np.argsort(session, kind="stable")
    begin = np.flatnonzero(np.append(True, np.diff(session[order]) != 0))
    turn = np.empty(len(trace), dtype=np.int64)
    turn[order] = np.arange(len(trace)) - np.repeat(begin, np.diff(np.append(begin, len(trace))))
    found = int((parent != NONE).sum())
    linked = trace.with_columns(session_id=session, turn=np.where(alone, turn, trace.turn))
    if link_parents:
        parent_id = np.where(parent == NONE, trace.parent_id, trace.request_id[parent])
        linked = linked.with_columns(parent_id=parent_id)
    return linked.noted(f"sessions recovered from prefixes: {found} of {len(trace)} requests are follow-ups")


def _follows(trace: Trace) -> IntArray:
    """Row of the request that each one follows up, or -1."""
    n = len(trace)
    path = find_paths(trace).of_block
    counts = np.diff(trace.block_start)
    full = trace.prompt_tokens // trace.block_size if is_regular(trace) else counts
    ending = np.flatnonzero(full >= 2)
    ends = path[trace.block_start[ending] + full[ending] - 1]
    row = np.repeat(np.arange(n), counts)
    asks = np.arange(len(path)) != trace.block_start[row]  # every block but a prompt's first
    known = np.sort(ends * n + ending)  # path, then row: the latest earlier row is one step to the left
    at = np.searchsorted(known, path[asks] * n + row[asks]) - 1
    hit = (at >= 0) & (known[at] // n == path[asks]) if len(known) else np.zeros(len(at), dtype=np.bool_)
    latest = np.full(n, NONE, dtype=np.int64)
    np.maximum.at(latest, row[asks][hit], known[at[hit]] % n)
    return latest


def _own_sessions(trace: Trace) -> IntArray:
    """A session for each request, named by its id, beside those that the trace has."""
    own: IntArray = int(trace.session_id.max()) + 1 + trace.request_id
    return np.where(trace.session_id == NONE, own, trace.session_id)


def _keep(trace: Trace, keep: BoolArray, what: str) -> Trace:
    rows = np.flatnonzero(keep)
    if not len(rows):
        raise TraceError(f"trace {trace.name!r} is empty after {what}: it had {len(trace)} requests")
    return trace.take(rows).noted(f"{what}: {len(rows)} of {len(trace)} requests")


def _chosen(ids: IntArray, share: Fraction, seed: int) -> BoolArray:
    """Which ids fall within the share, by SplitMix64 (Steele et al., OOPSLA 2014) of id and seed."""
    if share == 1:
        return np.ones(len(ids), dtype=np.bool_)
    word = ids.astype(np.uint64) + np.uint64((seed + 1) * 0x9E3779B97F4A7C15 % 2**64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        word = (word ^ (word >> np.uint64(shift))) * np.uint64(factor)
    word ^= word >> np.uint64(31)
    within: BoolArray = word < np.uint64((share.numerator << 64) // share.denominator)
    return within


def _apart(columns: Sequence[IntArray]) -> list[IntArray]:
    """Each column's ids renumbered so that no two columns share one; -1 stays."""
    apart = []
    base = 0
    for ids in columns:
        named = ids != NONE
        names, dense = np.unique(ids[named], return_inverse=True)
        fresh = np.full(len(ids), NONE, dtype=np.int64)
        fresh[named] = base + dense
        apart.append(fresh)
        base += len(names)
    return apart


def _fraction(fraction: Fraction | str) -> Fraction:
    try:
        share = Fraction(fraction)
    except (ValueError, ZeroDivisionError):
        share = Fraction(0)
    if not 0 < share <= 1:
        raise TraceError(f"fraction is {str(fraction)!r}, expected one more than 0 and at most 1, such as 1/8")
    return share


def _require_positive(what: str, value: float) -> None:
    if not 0 < value < float("inf"):
        raise TraceError(f"{what} is {value}, expected a finite number of more than 0")

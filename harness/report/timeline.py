"""``timeline.json.gz``: a run as a Chrome trace, which Perfetto (ui.perfetto.dev) and chrome://tracing open.

A process of the server is a process of the trace. A request is one slice in each process that held it, between two of
its eight moments; slices that overlap lie in lanes. The engine's steps have a lane of their own; KV pages and requests
in the server are counters. Times are microseconds from the start of the run (Trace Event Format, Google 2016).

The file is for looking at, not for computing with, so its size is bounded: of many requests an even sample is drawn,
runs of equal decode steps are one slice, and a counter keeps the extremes of each interval. ``otherData`` says how much
of the run is in it.
"""

from __future__ import annotations

import gzip
import heapq
from itertools import chain
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from harness.metrics.files import RunError
from harness.metrics.schema import NULL, PHASES, STATUSES
from harness.metrics.stages import Stage, span, stage

if TYPE_CHECKING:
    from pathlib import Path

    from harness.metrics.schema import Array, Columns

FILE = "timeline.json.gz"
MOST_REQUESTS = 2000
MOST_STEPS = 10_000
MOST_COUNTS = 2000
GZIP_LEVEL = 3
NS = 1e9
LATEST_S = 9e9  # that 64 bits of nanoseconds hold, some 285 years; what comes later is drawn there
STEPS_LANE, FATES_LANE, FIRST_LANE = 1, 2, 3

OUTER = {  # what holds a request in each process of the server
    "client": span("request", "to the API server", "to the client"),
    "API server": span("serve", "tokenize", "send back"),
    "tokenizer": stage("tokenize"),
    "scheduler": stage("queue"),
    "engine": span("run", "prefill", "decode"),
    "detokenizer": stage("detokenize"),
}
INNER = {  # parts of that, drawn below it
    "client": (
        Stage("to first token", "sent_s", "client_first_token_s"),
        Stage("stream", "client_first_token_s", "client_last_token_s"),
    ),
    "engine": (stage("prefill"), stage("decode")),
}
PROCESSES = tuple(OUTER)


class Event(msgspec.Struct, omit_defaults=True):
    """An event of the trace: ``ph`` X a slice, C a counter, i an instant, M a name; times in microseconds."""

    name: str
    ph: str
    pid: int
    ts: float | None = None
    dur: float | None = None
    tid: int | None = None
    s: str | None = None
    args: dict[str, Any] | None = None


def write_timeline(run_dir: Path, requests: Columns, steps: Columns | None) -> None:
    """Write ``timeline.json.gz``; the same columns give the same bytes.

    Args:
        run_dir: The run directory, which exists.
        requests: As :func:`harness.metrics.schema.complete_requests` gives them.
        steps: As :func:`harness.metrics.schema.complete_steps` gives them; None where the engine is not ours.

    Raises:
        RunError: The file cannot be written.
    """
    text = msgspec.json.encode(timeline(requests, steps))
    path = run_dir / FILE
    try:
        path.write_bytes(gzip.compress(text, GZIP_LEVEL, mtime=0))
    except OSError as error:
        raise RunError(f"{path}: cannot be written ({error.strerror or error}); choose hydra.run.dir=DIR") from error


def timeline(requests: Columns, steps: Columns | None) -> dict[str, Any]:
    """The trace, ready to be encoded: arguments as :func:`write_timeline` takes them."""
    rows = _sample(len(requests["request_id"]), MOST_REQUESTS)
    events = [*_names(), *_request_events(requests, rows)]
    said: dict[str, Any] = {"requests": len(requests["request_id"]), "requests_drawn": len(rows)}
    if steps is not None and len(steps["start_s"]):
        slices = _step_events(steps)
        events += slices
        events += _counters(steps)
        said |= {"steps": len(steps["start_s"]), "step_slices": len(slices)}
    return {"displayTimeUnit": "ms", "otherData": said, "traceEvents": events}


def _sample(count: int, most: int) -> Array:
    """At most so many rows, evenly spaced, the first and the last among them."""
    return np.arange(count) if count <= most else np.linspace(0, count - 1, most).round().astype(np.int64)


def _pid(process: str) -> int:
    return PROCESSES.index(process) + 1


def _names() -> list[Event]:
    events = []
    for position, process in enumerate(PROCESSES):
        events.append(Event("process_name", "M", _pid(process), args={"name": process}))
        events.append(Event("process_sort_index", "M", _pid(process), args={"sort_index": position}))
    events.append(Event("thread_name", "M", _pid("engine"), tid=STEPS_LANE, args={"name": "steps"}))
    events.append(Event("thread_name", "M", _pid("client"), tid=FATES_LANE, args={"name": "not ok"}))
    return events


def _nanoseconds(times_s: Array) -> Array:
    """Whole nanoseconds, NULL where a time is unknown."""
    ns: Array = np.nan_to_num(np.minimum(times_s, LATEST_S) * NS, nan=NULL).round().astype(np.int64)
    return ns


def _request_events(requests: Columns, rows: Array) -> list[Event]:
    drawn = (*OUTER.values(), *chain(*INNER.values()))
    moments = {moment for each in drawn for moment in (each.start, each.end)}
    # Whole nanoseconds, so that slices that touch do not overlap by a rounding.
    ns = {name: _nanoseconds(requests[name][rows]) for name in moments}
    lists = {name: values.tolist() for name, values in ns.items()}
    about = _about(requests, rows)
    events: list[Event] = []
    for process, outer in OUTER.items():
        pid, inner = _pid(process), INNER.get(process, ())
        lanes: list[tuple[int, int]] = []  # (free from, lane)
        start_ns, end_ns = lists[outer.start], lists[outer.end]
        lane_count = 0
        order = np.argsort(ns[outer.start], kind="stable")
        known = (ns[outer.start] >= 0) & (ns[outer.end] >= ns[outer.start])
        for row in order[known[order]].tolist():
            if lanes and lanes[0][0] <= start_ns[row]:
                _, lane = heapq.heappop(lanes)
            else:
                lane = FIRST_LANE + lane_count
                lane_count += 1
            heapq.heappush(lanes, (end_ns[row], lane))
            identity, args = about[row]
            events.append(_slice(f"{outer.name} {identity}", pid, lane, start_ns[row], end_ns[row], args))
            for part in inner:
                begin, end = lists[part.start][row], lists[part.end][row]
                if start_ns[row] <= begin <= end <= end_ns[row]:
                    events.append(_slice(part.name, pid, lane, begin, end))
        for lane in range(lane_count):
            name = f"requests, lane {lane + 1}"
            events.append(Event("thread_name", "M", pid, tid=FIRST_LANE + lane, args={"name": name}))
    return events + _fates(requests, rows)


def _about(requests: Columns, rows: Array) -> list[tuple[int, dict[str, Any]]]:
    """Identity and facts of each request, shown when a slice is selected."""
    names = ("request_id", "session_id", "turn", "prompt_tokens", "cached_tokens", "output_tokens")
    columns = [requests[name][rows].tolist() for name in names]
    return [
        (values[0], {name: value for name, value in zip(names, values, strict=True) if value != NULL})
        for values in zip(*columns, strict=True)
    ]


def _fates(requests: Columns, rows: Array) -> list[Event]:
    """An instant for each request that did not end ok."""
    events = []
    status = requests["status"][rows]
    for row in rows[status != STATUSES.index("ok")].tolist():
        at_s = requests["sent_s"][row]
        at_s = requests["arrival_s"][row] if np.isnan(at_s) else at_s
        word = STATUSES[int(requests["status"][row])]
        args = {"request_id": int(requests["request_id"][row]), "error": requests["error"][row]}
        events.append(
            Event(word, "i", _pid("client"), ts=_us(int(_nanoseconds(at_s))), tid=FATES_LANE, s="t", args=args)
        )
    return events


def _step_events(steps: Columns) -> list[Event]:
    """Steps as slices; decode steps in a row with the same sequences are one."""
    order = np.argsort(steps["start_s"], kind="stable")
    start_ns = _nanoseconds(steps["start_s"][order])
    end_ns = _nanoseconds((steps["start_s"] + steps["duration_s"])[order])
    end_ns[:-1] = np.maximum(np.minimum(end_ns[:-1], start_ns[1:]), start_ns[:-1])
    phase, sequences = steps["phase"][order], steps["sequences"][order]
    decode = phase == PHASES.index("decode")
    tolerance = 0
    while True:
        first = _run_starts(decode, sequences, tolerance)
        if len(first) <= MOST_STEPS or tolerance > int(sequences.max()):
            break
        tolerance = 2 * tolerance + 1
    stride = -(-len(first) // MOST_STEPS)  # prefills alone can be too many: neighbours are then drawn as one
    first = first[::stride]
    last = np.append(first[1:], len(order)) - 1
    totals = {name: np.add.reduceat(steps[name][order], first).tolist() for name in ("prefill_tokens", "decode_tokens")}
    most = np.maximum.reduceat(sequences, first).tolist()
    events = []
    for row, (begin, end) in enumerate(zip(first.tolist(), last.tolist(), strict=True)):
        count = end - begin + 1
        prefilled, decoded = totals["prefill_tokens"][row], totals["decode_tokens"][row]
        name = ("mixed" if decoded else "prefill") if prefilled else "decode"
        args = {
            "first_step": int(begin),
            "steps": count,
            "sequences": most[row],
            "prefill_tokens": prefilled,
            "decode_tokens": decoded,
        }
        events.append(_slice(name, _pid("engine"), STEPS_LANE, int(start_ns[begin]), int(end_ns[end]), args))
    return events


def _run_starts(decode: Array, sequences: Array, tolerance: int) -> Array:
    """Where a slice begins: at every step but a decode that follows a decode of about as many sequences."""
    level = sequences // (tolerance + 1)
    same = decode[1:] & decode[:-1] & (level[1:] == level[:-1])
    return np.flatnonzero(np.append(True, ~same))


def _counters(steps: Columns) -> list[Event]:
    groups = {
        ("KV pages", "engine"): ("pages_used", "pages_cached", "pages_free"),
        ("requests", "scheduler"): ("waiting", "running"),
    }
    events = []
    start_ns = _nanoseconds(steps["start_s"])
    for (name, process), columns in groups.items():
        known = [column for column in columns if bool((steps[column] != NULL).all())]
        if not known:
            continue
        rows = _extremes(steps[known[0]], MOST_COUNTS)
        rows = rows[np.argsort(start_ns[rows], kind="stable")]
        values = zip(*(steps[column][rows].tolist() for column in known), strict=True)
        keys = [column.removeprefix("pages_") for column in known]
        for at_ns, row in zip(start_ns[rows].tolist(), values, strict=True):
            events.append(Event(name, "C", _pid(process), ts=_us(at_ns), args=dict(zip(keys, row, strict=True))))
    return events


def _extremes(values: Array, most: int) -> Array:
    """Rows to draw a series by: where it changes; of too many, the smallest and the largest of each stretch."""
    rows = np.flatnonzero(np.append(True, values[1:] != values[:-1]))
    if len(rows) <= most:
        return rows
    edges = np.linspace(0, len(rows), most // 2 + 1).astype(np.int64)[:-1]
    kept = [0, len(values) - 1]
    for stretch in np.split(rows, edges[1:]):
        kept += [int(stretch[values[stretch].argmin()]), int(stretch[values[stretch].argmax()])]
    return np.unique(kept)


def _slice(name: str, pid: int, tid: int, start_ns: int, end_ns: int, args: dict[str, Any] | None = None) -> Event:
    return Event(name, "X", pid, ts=_us(start_ns), dur=_us(end_ns - start_ns), tid=tid, args=args)


def _us(ns: int) -> float:
    return ns / 1000

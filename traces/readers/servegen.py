"""ServeGen's models of clients, from which a workload is generated (alibaba/ServeGen).

A directory with, for each client N, ``chunk-N-trace.csv`` (no header: start of a window in s, rate in
requests/s, CV of the inter-arrival times, ``Gamma`` or ``Weibull``, its shape and its scale) and
``chunk-N-dataset.json`` (for each longer window the distributions of ``input_tokens`` and ``output_tokens``).
Xiang et al., ServeGen, NSDI 2026.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from traces.errors import TraceError
from traces.readers.table import columns
from traces.schema import Trace

if TYPE_CHECKING:
    from traces.readers.source import Source
    from traces.schema import FloatArray, IntArray

_TRACE_FILE = re.compile(r"^chunk-(\d+)-trace\.csv(\.gz)?$")
_COLUMNS = ("start", "rate", "cv", "pattern", "shape", "scale")
MIN_SHAPE = {"Gamma": 0.001, "Weibull": 0.1}  # below, nearly all gaps are nothing and a few are endless
MAX_RATE = 1e5  # requests/s


class _Lengths(msgspec.Struct):
    input_tokens: str
    output_tokens: str


@dataclass(frozen=True)
class _Histogram:
    """A distribution of lengths: values in tokens and what they sum up to, from 0 to 1."""

    values: IntArray
    cumulative: FloatArray

    def draw(self, rng: np.random.Generator, count: int) -> IntArray:
        at = np.searchsorted(self.cumulative, rng.random(count), side="right")
        values: IntArray = self.values[at.clip(max=len(self.values) - 1)]
        return np.maximum(values, 1)


def recognise(source: Source) -> bool:
    """Whether a directory holds clients."""
    return source.is_folder and any(_TRACE_FILE.match(path.name) for path in source.path.iterdir())


def read(
    source: Source,
    *,
    start_s: float = 0.0,
    duration_s: float = 3600.0,
    rate_scale: float = 1.0,
    seed: int = 0,
) -> Trace:
    """Generate a trace from the clients of a directory, each a tenant.

    In every window a client's inter-arrival times follow the window's distribution and its lengths, drawn
    independently, those of its most recent window that has any.

    Args:
        source: The directory.
        start_s: Where in the clients' day the trace begins.
        duration_s: How long it lasts.
        rate_scale: Multiplies every rate; the burstiness stays.
        seed: Of everything drawn. Each client has a stream of its own.

    Raises:
        TraceError: A file is wrong, or the window holds no request.
    """
    for name, value in (("duration_s", duration_s), ("rate_scale", rate_scale)):
        if not 0 < value < float("inf"):
            raise TraceError(f"{name} is {value}, expected a finite number of more than 0")
    arrivals, prompts, outputs, tenants = [], [], [], []
    for file in source.members("-trace.csv"):
        match = _TRACE_FILE.match(file.path.name)
        if match is None:
            continue
        client = int(match[1])
        rng = np.random.default_rng([seed, client])
        lengths = _read_lengths(source, client)
        for begin, end, rate, pattern, shape in _windows(file, start_s, start_s + duration_s):
            known = [window for window in lengths if window <= begin]
            if not known:
                continue
            prompt, output = lengths[known[-1]]
            times = begin + _renewals(rng, pattern, shape, rate * rate_scale, end - begin)
            arrivals.append(times - start_s)
            prompts.append(prompt.draw(rng, len(times)))
            outputs.append(output.draw(rng, len(times)))
            tenants.append(np.full(len(times), client))
    total = sum(map(len, arrivals))
    if not total:
        raise TraceError(f"{source.path}: no request from {start_s:g} s for {duration_s:g} s: take another window")
    order = np.argsort(np.concatenate(arrivals), kind="stable")
    return Trace.build(
        source.name,
        arrival_s=np.concatenate(arrivals)[order],
        prompt_tokens=np.concatenate(prompts)[order],
        output_tokens=np.concatenate(outputs)[order],
        client_id=np.concatenate(tenants)[order],
        notes=(
            f"generated from ServeGen clients: {start_s:g} s to {start_s + duration_s:g} s of their day, "
            f"rate x {rate_scale:g}, seed {seed}",
        ),
    )


def _windows(file: Source, start_s: float, end_s: float) -> list[tuple[float, float, float, str, float]]:
    """Begin, end, rate, pattern and shape of each window in which the client is active."""
    table = columns(file, {"start": "float", "rate": "float", "pattern": "text", "shape": "float"}, _COLUMNS)
    begins, rates, patterns, shapes = (table[name] for name in ("start", "rate", "pattern", "shape"))
    idle = patterns == ""
    file.require(np.append(True, np.diff(begins) > 0), "start", begins, "later than the line before")
    file.require(idle | np.isin(patterns, list(MIN_SHAPE)), "pattern", patterns, " or ".join(MIN_SHAPE))
    file.require(idle | ((rates > 0) & (rates <= MAX_RATE)), "rate", rates, f"up to {MAX_RATE:g} requests/s")
    least = np.where(patterns == "Gamma", MIN_SHAPE["Gamma"], MIN_SHAPE["Weibull"])
    file.require(idle | ((shapes >= least) & np.isfinite(shapes)), "shape", shapes, f"one of {MIN_SHAPE} or more")
    last = begins[-1] + (begins[-1] - begins[-2] if len(begins) > 1 else np.inf)
    ends = np.append(begins[1:], last).clip(max=end_s)
    rows = np.flatnonzero(~idle & (ends > start_s) & (begins < end_s))
    return [(max(begins[row], start_s), ends[row], rates[row], patterns[row], shapes[row]) for row in rows]


def _renewals(rng: np.random.Generator, pattern: str, shape: float, rate: float, span: float) -> FloatArray:
    """Arrival times of a renewal process in ``[0, span)``, seconds.

    The rate sets the mean gap; the fitted scale, which would give it but for the fit's error, is not used.
    """
    if rate > MAX_RATE:
        raise TraceError(f"rate_scale makes {rate:g} requests/s of a client, expected {MAX_RATE:g} at most")
    times = np.empty(0)
    while not len(times) or times[-1] < span:
        count = 64 + int(span * rate)
        if pattern == "Gamma":
            gaps = rng.standard_gamma(shape, count) / shape
        else:
            gaps = rng.weibull(shape, count) / math.gamma(1.0 + 1.0 / shape)
        times = np.concatenate((times, np.cumsum(gaps / rate) + (times[-1] if len(times) else 0.0)))
    return times[times < span]


def _read_lengths(source: Source, client: int) -> dict[int, tuple[_Histogram, _Histogram]]:
    files = source.members(f"chunk-{client}-dataset.json")
    if not files:
        raise TraceError(f"{source.path}: chunk-{client}-dataset.json is missing beside chunk-{client}-trace.csv")
    try:
        windows = msgspec.json.decode(files[0].content(), type=dict[int, _Lengths])
    except msgspec.MsgspecError as error:
        raise TraceError(f"{files[0].path}: {error}") from None
    lengths = {}
    for begin in sorted(windows):
        prompt = _histogram(files[0], begin, "input_tokens", windows[begin].input_tokens)
        output = _histogram(files[0], begin, "output_tokens", windows[begin].output_tokens)
        if prompt is not None and output is not None:
            lengths[begin] = (prompt, output)
    return lengths


def _histogram(file: Source, begin: int, name: str, text: str) -> _Histogram | None:
    """The distribution in ``{value: probability, ...}``, None where that is empty."""
    cells = text.strip().strip("{}").replace(":", ",").split(",")
    if cells == [""]:
        return None
    try:
        pairs = np.array(cells, dtype=np.float64).reshape(-1, 2)
    except ValueError:
        raise TraceError(f"{file.path}, window {begin}: {name} is {text[:40]!r}, expected {{tokens: share}}") from None
    weights = pairs[:, 1]
    if not (np.isfinite(pairs).all() and (pairs >= 0).all() and weights.sum() > 0):
        raise TraceError(f"{file.path}, window {begin}: {name} has a share that is negative or not a number")
    return _Histogram(pairs[:, 0].astype(np.int64), np.cumsum(weights) / weights.sum())

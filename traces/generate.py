"""Synthetic workloads: arrivals, lengths, shared system prompts and multi-turn sessions."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Literal, TypeVar, cast, get_args

import numpy as np
import numpy.typing as npt

from traces.errors import TraceError
from traces.schema import NONE, Blocks, FloatArray, IntArray, Trace, offsets

Shape = Literal["fixed", "uniform", "exponential", "lognormal", "geometric"]
Process = Literal["poisson", "gamma", "constant", "all_at_once", "closed_loop"]
Number = TypeVar("Number", np.int64, np.float64)

STREAMS = ("arrivals", "input", "output", "turns", "think", "prefix", "prefix_tokens")


@dataclass(frozen=True)
class Distribution:
    """What a length or a time is drawn from.

    Attributes:
        shape: ``fixed``: always ``mean``; ``uniform`` from ``low`` to ``high``; ``exponential``;
            ``lognormal`` with ``mean`` and ``cv``; ``geometric``: whole numbers from 1.
        mean: Of all shapes but uniform, before the limits.
        cv: Coefficient of variation of a lognormal: standard deviation over mean.
        low: Smaller draws become this.
        high: Larger draws become this.

    Raises:
        TraceError: A number is out of range.
    """

    shape: Shape = "fixed"
    mean: float = 1.0
    cv: float = 1.0
    low: float = 0.0
    high: float = math.inf

    def __post_init__(self) -> None:
        if self.shape not in get_args(Shape):
            raise TraceError(f"distribution {self.shape!r} is unknown, {_one_of(Shape)}")
        least = 1 if self.shape == "geometric" else 0
        if not (math.isfinite(self.mean) and self.mean >= least):
            raise TraceError(f"{self.shape} mean is {self.mean}, expected {least} or more")
        if not (math.isfinite(self.cv) and self.cv >= 0):
            raise TraceError(f"{self.shape} cv is {self.cv}, expected 0 or more")
        if not 0 <= self.low <= self.high:
            limits = f"low={self.low}, high={self.high}"
            raise TraceError(f"{self.shape} limits are {limits}, expected 0 <= low <= high")
        if self.shape == "uniform" and math.isinf(self.high):
            raise TraceError("uniform needs high, the largest value")
        if self.shape == "lognormal" and self.mean == 0:
            raise TraceError("lognormal mean is 0, expected more than 0")

    @classmethod
    def lognormal_by_median(cls, median: float, sigma: float) -> Distribution:
        """The lognormal whose logarithm has the mean ``log(median)`` and the standard deviation ``sigma``."""
        return cls("lognormal", mean=median * math.exp(sigma**2 / 2), cv=math.sqrt(math.expm1(sigma**2)))

    @classmethod
    def parse(cls, text: str) -> Distribution:
        """Read the form that ``str`` gives: ``fixed:mean=100``, ``lognormal:mean=900:cv=1.2:high=8000``.

        A lognormal may also be given as ``lognormal:median=700:sigma=0.8``.

        Raises:
            TraceError: The shape or a number is wrong.
        """
        shape, *parts = text.split(":")
        numbers: dict[str, float] = {}
        for part in parts:
            knob, _, value = part.partition("=")
            try:
                numbers[knob] = float(value)
            except ValueError:
                raise TraceError(f"distribution {text!r}: {part!r} is not like mean=100") from None
        if shape == "lognormal" and "median" in numbers and "sigma" in numbers:
            by_median = cls.lognormal_by_median(numbers.pop("median"), numbers.pop("sigma"))
            numbers = {"mean": by_median.mean, "cv": by_median.cv} | numbers
        for knob in numbers:
            if knob not in ("mean", "cv", "low", "high"):
                raise TraceError(f"distribution {text!r}: {knob!r} is not mean, cv, low or high")
        return cls(cast("Shape", shape), **numbers)

    def __str__(self) -> str:
        knobs = {"uniform": ("low", "high"), "lognormal": ("mean", "cv", "low", "high")}
        limits = {"low": 0.0, "high": math.inf}
        said = [
            f"{knob}={getattr(self, knob):g}"
            for knob in knobs.get(self.shape, ("mean", "low", "high"))
            if getattr(self, knob) != limits.get(knob)
        ]
        return ":".join((self.shape, *said))

    def draw(self, rng: np.random.Generator, n: int) -> FloatArray:
        """``n`` draws within the limits."""
        if self.shape == "fixed":
            drawn = np.full(n, float(self.mean))
        elif self.shape == "uniform":
            drawn = self.low + (self.high - self.low) * rng.random(n)
        elif self.shape == "exponential":
            drawn = self.mean * rng.standard_exponential(n)
        elif self.shape == "geometric":
            drawn = rng.geometric(1 / self.mean, n).astype(np.float64)
        else:
            variance = math.log1p(self.cv**2)
            drawn = self.mean * np.exp(math.sqrt(variance) * rng.standard_normal(n) - variance / 2)
        return drawn.clip(self.low, self.high)

    def draw_counts(self, rng: np.random.Generator, n: int) -> IntArray:
        """``n`` whole numbers of 1 or more."""
        return np.rint(self.draw(rng, n)).clip(1).astype(np.int64)


@dataclass(frozen=True)
class SyntheticWorkload:
    """A synthetic workload.

    Every part draws from a stream of its own: changing one leaves the others as they were.

    Attributes:
        requests: How many, all turns counted.
        arrivals: How sessions start. ``poisson``; ``gamma`` gaps; ``constant`` gaps; ``all_at_once``: at 0;
            ``closed_loop``: ``concurrency`` users, each of whom starts a session when the last one has ended.
            The first arrives at 0.
        rate: Requests per second; sessions of several turns start as much more rarely.
        rate_end: The rate that ``rate`` moves to, linearly over the trace; None: it stays.
        burstiness: Shape of gamma gaps as in vLLM: 1 is Poisson, smaller is burstier (CV = 1 / sqrt(shape)).
        concurrency: Users of a closed loop.
        input: Tokens that each turn adds to the conversation.
        output: Tokens of each answer.
        turns: Requests of a session.
        think_s: Seconds between the end of an answer and the next turn.
        prefixes: Number of shared system prompts; each session begins with one, 0 for none.
        prefix_tokens: Tokens of a system prompt.
        prefix_skew: Exponent of their Zipf popularity; 0 is uniform.
        seed: Of all streams.

    Raises:
        TraceError: A number is out of range.
    """

    requests: int = 1000
    arrivals: Process = "poisson"
    rate: float = 1.0
    rate_end: float | None = None
    burstiness: float = 1.0
    concurrency: int = 1
    input: Distribution = Distribution("lognormal", mean=1000, cv=1.0)
    output: Distribution = Distribution("lognormal", mean=200, cv=1.0)
    turns: Distribution = Distribution("fixed", mean=1)
    think_s: Distribution = Distribution("exponential", mean=10)
    prefixes: int = 0
    prefix_tokens: Distribution = Distribution("fixed", mean=500)
    prefix_skew: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if self.arrivals not in get_args(Process):
            raise TraceError(f"arrivals={self.arrivals} is unknown, {_one_of(Process)}")
        least_of = {"requests": 1, "concurrency": 1, "prefixes": 0, "prefix_skew": 0, "seed": 0}
        for knob, least in least_of.items():
            if not least <= getattr(self, knob) < math.inf:
                raise TraceError(f"{knob} is {getattr(self, knob)}, expected {least} or more")
        for knob in ("rate", "rate_end", "burstiness"):
            value = getattr(self, knob)
            if value is not None and not 0 < value < math.inf:
                raise TraceError(f"{knob} is {value}, expected a finite number above 0")


def generate(workload: SyntheticWorkload, name: str = "generated", lengths_from: Trace | None = None) -> Trace:
    """Draw a trace: the same workload gives the same trace.

    A later turn's prompt is the prompt before it, the answer to that, and new text. It arrives at the
    earliest one think time after the turn before, as if answers took no time: a replay waits for the answer
    and then for ``think_s``.

    Args:
        workload: What to draw.
        name: Of the trace.
        lengths_from: Draw (input, output) pairs from the requests of this trace instead of from ``input`` and
            ``output``.
    """
    streams = {
        stream: np.random.Generator(np.random.PCG64(np.random.SeedSequence(workload.seed, spawn_key=(key,))))
        for key, stream in enumerate(STREAMS)
    }
    n = workload.requests
    # One session after the other, turn by turn, until the rows are put in order of arrival.
    start = _sessions(workload, streams["turns"])
    sessions = len(start) - 1
    session = np.repeat(np.arange(sessions), np.diff(start))
    turn = np.arange(n) - start[session]
    if lengths_from is None:
        added = workload.input.draw_counts(streams["input"], n)
        output = workload.output.draw_counts(streams["output"], n)
    else:
        pick = streams["input"].integers(len(lengths_from), size=n)
        added, output = lengths_from.prompt_tokens[pick], lengths_from.output_tokens[pick]
    prefix, prefix_tokens = _prefixes(workload, streams, sessions)

    think_s = np.where(turn > 0, _microseconds(workload.think_s.draw(streams["think"], n)), 0.0)
    parent = np.where(turn > 0, np.arange(n) - 1, NONE)
    waited = _running(think_s, start)
    if workload.arrivals == "closed_loop":
        arrival, parent = _closed_loop(waited, start, parent, workload.concurrency)
    else:
        arrival = _starts(workload, streams["arrivals"], sessions)[session] + waited

    order = np.argsort(_microseconds(arrival), kind="stable")  # so that a parent stays before its child
    row = np.empty(n, np.int64)
    row[order] = np.arange(n)
    text = workload.prefixes + 2 * row  # block ids: system prompts, then text and answer of each row
    before = _running(added + output, start) - (added + output)
    shared = prefix_tokens[prefix][session] if workload.prefixes else 0
    blocks = _blocks(turn, text, added, output, prefix[session] if workload.prefixes else None, prefix_tokens)
    return Trace.build(
        name,
        arrival_s=_microseconds(arrival)[order],
        prompt_tokens=(shared + before + added)[order],
        output_tokens=output[order],
        session_id=session[order],
        turn=turn[order],
        parent_id=np.where(parent == NONE, NONE, row[parent])[order],
        think_s=think_s[order],
        output_id=(text + 1)[order],
        blocks=blocks.take(order),
        notes=(f"generated: {_said(workload, lengths_from)}",),
    )


def _microseconds(seconds: FloatArray) -> FloatArray:
    """Rounded, so that a last bit that differs between machines does not show."""
    return np.round(seconds, 6)


def _running(values: npt.NDArray[Number], start: IntArray) -> npt.NDArray[Number]:
    """Running sums within each session, its own row included."""
    total = np.cumsum(values)
    return total - np.repeat((total - values)[start[:-1]], np.diff(start))


def _sessions(workload: SyntheticWorkload, rng: np.random.Generator) -> IntArray:
    """Where each session begins; the last one is cut where the requests are enough."""
    turns = np.empty(0, np.int64)
    while int(turns.sum()) < workload.requests:
        turns = np.concatenate((turns, workload.turns.draw_counts(rng, 1024)))
    start = offsets(turns)
    return np.append(start[start < workload.requests], workload.requests)


def _prefixes(
    workload: SyntheticWorkload, streams: dict[str, np.random.Generator], sessions: int
) -> tuple[IntArray, IntArray]:
    """The system prompt of each session, and the tokens of each system prompt."""
    weight = np.arange(1, workload.prefixes + 1) ** -float(workload.prefix_skew)
    share = np.cumsum(weight) / weight.sum()
    prefix = np.searchsorted(share[:-1], streams["prefix"].random(sessions), side="right")
    return prefix, workload.prefix_tokens.draw_counts(streams["prefix_tokens"], workload.prefixes)


def _starts(workload: SyntheticWorkload, rng: np.random.Generator, sessions: int) -> FloatArray:
    """When sessions start: events of unit rate, mapped through the integral of the rate over time."""
    if workload.arrivals == "all_at_once":
        return np.zeros(sessions)
    if workload.arrivals == "constant":
        gaps = np.ones(sessions)
    elif workload.arrivals == "poisson":
        gaps = rng.standard_exponential(sessions)
    else:
        gaps = rng.standard_gamma(workload.burstiness, sessions) / workload.burstiness
    events = np.cumsum(gaps) - gaps[0]
    first = workload.rate * sessions / workload.requests
    last = first if workload.rate_end is None else workload.rate_end * sessions / workload.requests
    ramp_s = 2 * sessions / (first + last)
    slope = (last - first) / ramp_s
    inside = events.clip(max=sessions)
    # The root of slope/2 t^2 + first t = inside in the form that slope = 0 does not spoil.
    at = 2 * inside / (first + np.sqrt(first**2 + 2 * slope * inside))
    starts: FloatArray = at + (events - inside) / last
    return starts


def _closed_loop(waited: FloatArray, start: IntArray, parent: IntArray, users: int) -> tuple[FloatArray, IntArray]:
    """Earliest arrivals and parents when session ``s`` follows session ``s - users``."""
    sessions = len(start) - 1
    length = np.zeros(-(-sessions // users) * users)
    length[:sessions] = waited[start[1:] - 1]
    begins = (np.cumsum(length.reshape(-1, users), axis=0) - length.reshape(-1, users)).ravel()[:sessions]
    parent = parent.copy()
    later = np.arange(users, sessions)
    parent[start[later]] = start[later - users + 1] - 1
    return waited + np.repeat(begins, np.diff(start)), parent


def _blocks(
    turn: IntArray,
    text: IntArray,
    added: IntArray,
    output: IntArray,
    prefix: IntArray | None,
    prefix_tokens: IntArray,
) -> Blocks:
    """Prompts as blocks: the system prompt if any, text and answer of each turn before, new text."""
    lead = 0 if prefix is None else 1
    counts = lead + 2 * turn + 1
    start = offsets(counts)
    place = np.arange(start[-1]) - np.repeat(start[:-1], counts) - lead  # -1 is the system prompt
    source = np.repeat(np.arange(len(turn)) - turn, counts) + np.maximum(place, 0) // 2
    answer = place % 2
    ids = text[source] + answer
    tokens = np.where(answer == 1, output[source], added[source])
    if prefix is not None:
        ids[start[:-1]] = prefix
        tokens[start[:-1]] = prefix_tokens[prefix]
    return Blocks(start=start, id=ids, tokens=tokens)


def _said(workload: SyntheticWorkload, lengths_from: Trace | None) -> str:
    """What differs from the defaults, for the notes."""
    default = SyntheticWorkload()
    parts = [
        f"{field.name}={getattr(workload, field.name)}"
        for field in fields(workload)
        if getattr(workload, field.name) != getattr(default, field.name)
    ]
    if lengths_from is not None:
        parts.append(f"lengths from {lengths_from.name}")
    return ", ".join(parts) or "the default workload"


def _one_of(choices: object) -> str:
    return "choose from " + ", ".join(get_args(choices))

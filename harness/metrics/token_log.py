"""When each token reached the client, kept in little: by step, not by token."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from harness.metrics.schema import Gaps

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


class TokenLog:
    """Token times of every request, from the decode steps it took part in.

    All tokens of a decode step reach their clients at one time, so a request's tokens are the times of a run of decode
    steps: one span, or more where it sat steps out or was preempted; beside them the tokens that a prefill sampled.
    Decode steps are numbered by launch; their times come in the same order.

    Args:
        keep: Remember the tokens of closed requests, for :meth:`times_s`.
    """

    def __init__(self, *, keep: bool = False) -> None:
        self._times = array("d")  # by decode step
        self._spans: dict[int, list[int]] = {}  # request id -> first, end, first, end, ... (end open while it decodes)
        self._prefilled: dict[int, list[float]] = {}  # request id -> times of tokens that a prefill sampled
        self._pooled_first = array("q")  # shared gaps of ended requests end with steps first ... end - 1
        self._pooled_end = array("q")
        self._lone_gaps = array("d")
        self._closed: dict[int, tuple[list[int], list[float], int]] | None = {} if keep else None  # spans, lone, tokens

    def joined(self, request_id: int, decode_step: int) -> None:
        """From this decode step on the request gets a token in each."""
        self._spans.setdefault(request_id, []).append(decode_step)

    def left(self, request_id: int, decode_step: int) -> None:
        """From this decode step on it does not; no news for a request that was closed."""
        span = self._spans.get(request_id)
        if span is not None:
            span.append(decode_step)

    def prefilled(self, request_id: int, time_s: float) -> None:
        """The client got a token that a prefill sampled."""
        self._prefilled.setdefault(request_id, []).append(time_s)

    def decoded(self, time_s: float) -> None:
        """The clients got the tokens of the next decode step."""
        self._times.append(time_s)

    def decoded_run(self, times_s: FloatArray) -> None:
        """The clients got the tokens of the next decode steps."""
        self._times.frombytes(times_s.tobytes())

    def close(self, request_id: int, output_tokens: int, pool: bool) -> tuple[float, float, float]:
        """All tokens of a request are there.

        Args:
            request_id: Whose.
            output_tokens: How many; what a step in flight produced beyond is dropped.
            pool: Whether its gaps count among the pooled ones.

        Returns:
            Median, 99th percentile and maximum of its gaps between tokens, seconds; NaN under two tokens.
        """
        spans = self._spans.pop(request_id, [])
        lone = self._prefilled.pop(request_id, [])
        if self._closed is not None:
            self._closed[request_id] = spans, lone, output_tokens
        if output_tokens < 2:
            return (np.nan, np.nan, np.nan)
        if len(spans) % 2:
            spans.append(len(self._times))
        wanted = output_tokens - len(lone)
        if len(spans) == 2 and len(lone) == 1:
            first = spans[0]
            steps = self._view(first, first + wanted)
            gaps = np.empty(wanted)
            gaps[0] = steps[0] - lone[0]
            np.subtract(steps[1:], steps[:-1], out=gaps[1:])
            if pool:
                self._lone_gaps.append(gaps[0])
                self._pooled_first.append(first + 1)
                self._pooled_end.append(first + wanted)
        else:
            gaps = self._broken_gaps(spans, lone, wanted, pool)
        gaps.sort()
        return (*_quantiles(gaps), float(gaps[-1]))

    def times_s(self) -> Iterator[tuple[int, FloatArray]]:
        """Request id, and when the client got each of its tokens so far: of closed requests, then of those under way.

        Raises:
            ValueError: They were not kept.
        """
        if self._closed is None:
            raise ValueError("token times were not kept")
        for request_id, (spans, lone, tokens) in self._closed.items():
            yield request_id, self._tokens(spans, lone, tokens)
        for request_id in dict.fromkeys([*self._prefilled, *self._spans]):
            lone = self._prefilled.get(request_id, [])
            yield request_id, self._tokens(self._spans.get(request_id, []), lone, None)

    def gaps(self) -> Gaps:
        """The pooled gaps of all requests closed with ``pool``."""
        weight = np.zeros(len(self._times) + 1, np.int64)
        np.add.at(weight, np.frombuffer(self._pooled_first, np.int64), 1)
        np.subtract.at(weight, np.frombuffer(self._pooled_end, np.int64), 1)
        weight = weight.cumsum()[: len(self._times)]
        times = np.frombuffer(self._times)
        shared = np.diff(times, prepend=np.nan)
        used = weight > 0
        lone = np.frombuffer(self._lone_gaps)
        return Gaps(
            np.concatenate([shared[used], lone]),
            np.concatenate([weight[used], np.ones(len(lone), np.int64)]),
        )

    def _view(self, first: int, end: int) -> FloatArray:
        # Of a copy: a view of the array itself would lock it against growing.
        return np.frombuffer(self._times[first:end])

    def _at(self, steps: IntArray) -> FloatArray:
        """Times of decode steps, in order."""
        return self._view(steps[0], steps[-1] + 1)[steps - steps[0]] if len(steps) else np.empty(0)

    def _tokens(self, spans: list[int], lone: list[float], tokens: int | None) -> FloatArray:
        """Times of a request's tokens; of all that came, where it is not known how many there are."""
        if len(spans) % 2:
            spans = [*spans, len(self._times)]
        steps = _steps(spans)
        steps = steps[steps < len(self._times)] if tokens is None else steps[: tokens - len(lone)]
        return np.sort(np.concatenate([np.array(lone), self._at(steps)]))

    def _broken_gaps(self, spans: list[int], lone: list[float], wanted: int, pool: bool) -> FloatArray:
        """Gaps of a request whose tokens are not one run of steps: it was preempted, or sat steps out."""
        steps = _steps(spans)[:wanted]
        decoded = self._at(steps)
        times = np.concatenate([np.array(lone), decoded])
        steps = np.concatenate([np.full(len(lone), -2), steps])
        order = np.argsort(times, kind="stable")
        gaps = np.diff(times[order])
        if pool:
            shared = np.diff(steps[order]) == 1
            ends = steps[order][1:][shared]
            self._pooled_first.frombytes(ends.tobytes())
            self._pooled_end.frombytes((ends + 1).tobytes())
            self._lone_gaps.frombytes(gaps[~shared].tobytes())
        return gaps


def _steps(spans: list[int]) -> IntArray:
    """The decode steps of a request's spans, in order."""
    return np.concatenate(
        [np.empty(0, np.int64), *(np.arange(a, b) for a, b in zip(spans[::2], spans[1::2], strict=True))]
    )


def _quantiles(ordered: FloatArray) -> tuple[float, float]:
    """NumPy's linear median and 99th percentile of a sorted array, without its overhead."""
    last = len(ordered) - 1
    values = []
    for share in (0.5, 0.99):
        position = share * last
        below = int(position)
        low = float(ordered[below])
        high = float(ordered[min(below + 1, last)])
        values.append(low + (high - low) * (position - below))
    return values[0], values[1]

"""The request table while a backend fills it: one row a request, written as its moments come."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from harness.metrics.schema import FINISH_REASONS, MOMENTS, NULL, STATUSES
from harness.progress import Progress
from runtime.scheduler import Sequence
from traces.schema import Trace
from traces.stats import ideal_cached_tokens

_TIMES = (
    "sent_s",
    *MOMENTS,
    "client_first_token_s",
    "client_last_token_s",
    "itl_p50_s",
    "itl_p99_s",
    "itl_max_s",
    "preempted_s",
)
_COUNTS = ("cached_tokens", "chunks", "preemptions", "recomputed_tokens")  # all of Counts but a time
_UNFINISHED = STATUSES.index("unfinished")


class Counts(NamedTuple):
    """What a server counted for a request; what it does not tell is null.

    Attributes:
        cached_tokens: Prompt tokens found in the prefix cache at first admission.
        chunks: Steps that its prefill took.
        preemptions: Times it was preempted.
        recomputed_tokens: Tokens computed again after that.
        preempted_s: Between a preemption and the next admission, summed.
    """

    cached_tokens: int = NULL
    chunks: int = NULL
    preemptions: int = NULL
    recomputed_tokens: int = NULL
    preempted_s: float = float("nan")

    @classmethod
    def of(cls, sequence: Sequence) -> Counts:
        """What the scheduler has counted for a sequence."""
        return cls(
            sequence.hit_tokens,
            sequence.chunks,
            sequence.preemptions,
            sequence.recomputed_tokens,
            sequence.preempted_s,
        )


class RequestLog:
    """Columns of :data:`harness.metrics.schema.REQUEST_COLUMNS`, a row for each row of the trace.

    Times are written straight into the column attributes by row; :meth:`end` closes a request.

    Attributes:
        ended: Requests closed so far.
    """

    def __init__(self, trace: Trace) -> None:
        rows = len(trace)
        self._trace = trace
        self.arrival_s = trace.arrival_s.copy()
        self.times = {name: np.full(rows, np.nan) for name in _TIMES}
        self._counts = {name: np.full(rows, NULL, np.int64) for name in _COUNTS}
        self._output_tokens = np.zeros(rows, np.int64)
        self._status = np.full(rows, _UNFINISHED, np.int8)
        self._reason = np.full(rows, NULL, np.int8)
        self._error = np.full(rows, None, np.object_)
        self.ended = 0

    def end(self, row: int, status: str, reason: str | None, error: str | None = None) -> None:
        """Close a request: it ended with this status, once and for all.

        Raises:
            ValueError: It was closed before.
        """
        if self._status[row] != _UNFINISHED:
            raise ValueError(f"request of row {row} ended twice")
        self._status[row] = STATUSES.index(status)
        if reason is not None:
            self._reason[row] = FINISH_REASONS.index(reason)
        self._error[row] = error
        self.ended += 1

    def count(self, row: int, output_tokens: int, counts: Counts) -> None:
        """What the server counted for a request."""
        self._output_tokens[row] = output_tokens
        for name, values in self._counts.items():
            values[row] = getattr(counts, name)
        self.times["preempted_s"][row] = counts.preempted_s

    def progress(self, clock_s: float, output_tokens: int) -> Progress:
        """A look at the run under way."""
        times = self.times
        admitted = self._counts["cached_tokens"] != NULL
        prompt_tokens = int(self._trace.prompt_tokens[admitted].sum())
        ttft_s = times["client_first_token_s"] - self.arrival_s
        ttft_s = ttft_s[~np.isnan(ttft_s)]
        p50_s, p99_s = np.percentile(ttft_s, (50, 99)).tolist() if len(ttft_s) else (None, None)
        return Progress(
            clock_s=clock_s,
            ended=self.ended,
            requests=len(self._trace),
            in_flight=int((~np.isnan(times["sent_s"])).sum()) - self.ended,
            output_tokens=output_tokens,
            hit_ratio=int(self._counts["cached_tokens"][admitted].sum()) / prompt_tokens if prompt_tokens else None,
            ttft_p50_s=p50_s,
            ttft_p99_s=p99_s,
        )

    def columns(self, warmup_s: float) -> dict[str, Any]:
        """The base columns, as :func:`harness.metrics.schema.complete_requests` takes them."""
        trace, counts = self._trace, self._counts
        return {
            "request_id": trace.request_id,
            "session_id": trace.session_id,
            "turn": np.where(trace.session_id >= 0, trace.turn, NULL),
            "parent_id": trace.parent_id,
            "client_id": trace.client_id,
            "arrival_s": self.arrival_s,
            **self.times,
            "prompt_tokens": trace.prompt_tokens,
            "output_tokens": self._output_tokens,
            "max_tokens": trace.max_tokens,
            **counts,
            "cached_gpu_tokens": counts["cached_tokens"],
            "ideal_cached_tokens": self._ideal_cached_tokens(),
            "priority": trace.priority,
            "deadline_s": trace.deadline_s,
            "status": self._status,
            "finish_reason": self._reason,
            "error": self._error,
            "warmup": self.arrival_s < warmup_s,
        }

    def _ideal_cached_tokens(self) -> npt.NDArray[np.int64]:
        """What an unbounded cache would have hit in the order of admission, null where that is not known."""
        scheduled_s = self.times["scheduled_s"]
        known = ~np.isnan(scheduled_s)
        if not known.any():
            return np.full(len(known), NULL)
        ideal = ideal_cached_tokens(self._trace, np.argsort(scheduled_s, kind="stable"))
        return np.where(known, ideal, NULL)

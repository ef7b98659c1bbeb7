"""A workload: which requests a client sends, and when."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

from runtime.scheduler import Sequence
from traces.schema import Trace


class WorkloadError(ValueError):
    """A workload that cannot be; the message names the knob."""


class Arrivals(Enum):
    """When the client sends.

    In every mode a turn of a session waits for the turn before it to end, and for its think time.
    """

    OPEN = "open"  # at the trace's times, whatever the server does
    CLOSED = "closed"  # so many sessions or lone requests at once, the next when one has ended
    ALL_AT_ONCE = "all_at_once"  # everything at time 0


@dataclass(frozen=True)
class Workload:
    """What a backend replays.

    Attributes:
        trace: The requests.
        arrivals: When they are sent.
        concurrency: For closed arrivals, sessions or lone requests in flight.
        warmup_s: Requests that arrive earlier are left out of the summary.
        prompt_seed: Another seed, other token ids: nothing is shared between runs on one server.
    """

    trace: Trace
    arrivals: Arrivals = Arrivals.OPEN
    concurrency: int = 0
    warmup_s: float = 0.0
    prompt_seed: int = 0

    @classmethod
    def of(cls, trace: Trace, arrivals: str, concurrency: int, warmup_s: float, prompt_seed: int) -> Workload:
        """A workload from plain values.

        Raises:
            WorkloadError: One of them cannot be.
        """
        if arrivals not in {mode.value for mode in Arrivals}:
            choices = ", ".join(mode.value for mode in Arrivals)
            raise WorkloadError(f"workload.arrivals={arrivals}: no such mode; choose from {choices}")
        return cls(trace, Arrivals(arrivals), concurrency, warmup_s, prompt_seed)

    def sequence(self, row: int, arrival_s: float, tokens: Callable[[], npt.NDArray[np.int32]]) -> Sequence:
        """A request as the scheduler has it, its output length foretold.

        Args:
            row: Of the trace.
            arrival_s: When it arrives, on the scheduler's clock.
            tokens: Makes its prompt and its answer, one after the other.
        """
        trace = self.trace
        return Sequence(
            trace.request_id.item(row),
            trace.prompt_tokens.item(row),
            tokens,
            trace.max_tokens.item(row),
            foretold_tokens=trace.output_tokens.item(row),
            priority=trace.priority.item(row),
            deadline_s=arrival_s + trace.deadline_s.item(row),
            session_id=trace.session_id.item(row),
            client_id=trace.client_id.item(row),
        )

    @property
    def at_once(self) -> int:
        """Where all come at once: how many that is, so that the server can have them before it begins; else 0."""
        if self.arrivals is not Arrivals.ALL_AT_ONCE:
            return 0
        return int((~np.isin(self.trace.parent_id, self.trace.request_id)).sum())

    def __post_init__(self) -> None:
        ids, rows = np.unique(self.trace.request_id, return_counts=True)
        if len(ids) < len(self.trace):  # a server knows requests apart by nothing else
            twice = int(ids[rows > 1][0])
            raise WorkloadError(
                f"trace {self.trace.name!r}: request_id {twice} is there more than once; give each request its own"
            )
        if self.arrivals is Arrivals.CLOSED and self.concurrency < 1:
            raise WorkloadError(
                f"workload.concurrency={self.concurrency}: closed arrivals need at least 1, e.g. "
                "workload=closed workload.concurrency=64"
            )
        if self.warmup_s < 0:
            raise WorkloadError(f"workload.warmup_s={self.warmup_s}: not negative")

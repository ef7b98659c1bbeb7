"""The client: sends requests by the workload's rules, and waits for a turn to end before the next."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator

import numpy as np
from simpy.events import Event

from harness.metrics.request_log import RequestLog
from harness.metrics.token_log import TokenLog
from harness.simulator.environment import Environment, Mailbox
from harness.simulator.frontend import HopCosts, Submission
from harness.workload import Arrivals, Workload
from runtime.scheduler import Sequence
from traces.prompts import PromptMaker


class Client:
    """Sends every request of a workload and notes how it ended.

    A request whose turn before has not ended arrives when that has, and its think time has passed, if that is later
    than the trace says.

    Attributes:
        finished: An event for the end of the last request.
        output_tokens: Tokens of the requests that have ended.

    Args:
        env: The clock.
        workload: What to send.
        prompts: Makes the token ids.
        api: The API server's mailbox.
        log: Request table to write.
        tokens: Token times to close.
        costs: Of the way to the server.
    """

    def __init__(
        self,
        env: Environment,
        workload: Workload,
        prompts: PromptMaker,
        api: Mailbox[Submission],
        log: RequestLog,
        tokens: TokenLog,
        costs: HopCosts,
    ) -> None:
        self._env = env
        self._workload = workload
        self._trace = trace = workload.trace
        self._prompts = prompts
        self._api = api
        self._log = log
        self._tokens = tokens
        self._costs = costs
        self.finished = env.event()
        self.output_tokens = 0
        row_of = {request_id: row for row, request_id in enumerate(trace.request_id.tolist())}
        parents = trace.parent_id.tolist()
        self._followers: dict[int, list[int]] = {}
        self._roots: deque[int] = deque()
        for row, parent_id in enumerate(parents):
            parent = row_of.get(parent_id)
            if parent is None:
                self._roots.append(row)
            else:
                self._followers.setdefault(parent, []).append(row)
        self._underway = 0  # requests sent or thinking, of those that a closed loop has begun
        self._left = len(trace)
        if not self._left:
            self.finished.succeed()

    def run(self) -> Generator[Event, None, None]:
        """The SimPy process: the requests that wait for no other."""
        arrivals, roots = self._workload.arrivals, self._roots
        if arrivals is Arrivals.OPEN:
            times = self._trace.arrival_s
            while roots:
                row = roots.popleft()
                arrival_s = times.item(row)
                if arrival_s > self._env.now:
                    yield self._env.until(arrival_s)
                self._send(row, arrival_s)
            return
        while roots and (arrivals is Arrivals.ALL_AT_ONCE or self._underway < self._workload.concurrency):
            self._underway += 1
            self._send(roots.popleft(), 0.0)

    def row_ended(self, row: int, sequence: Sequence, time_s: float) -> None:
        """The client has the last token of a request."""
        request_id = sequence.request_id
        log = self._log
        log.times["client_last_token_s"][row] = time_s
        itl = self._tokens.close(request_id, sequence.output_tokens, pool=log.arrival_s[row] >= self._workload.warmup_s)
        times = log.times
        times["itl_p50_s"][row], times["itl_p99_s"][row], times["itl_max_s"][row] = itl
        self.output_tokens += sequence.output_tokens
        self._count(row, sequence)
        log.end(row, "ok", sequence.finish_reason)
        self._next(row, time_s)

    def row_refused(self, row: int, sequence: Sequence, error: str, time_s: float) -> None:
        """The server refused a request."""
        self._count(row, sequence)
        self._log.end(row, "rejected", "error", error)
        self._next(row, time_s)

    def leave(self, row: int, sequence: Sequence) -> None:
        """The run was interrupted: note what the server had counted."""
        self._count(row, sequence)

    def _count(self, row: int, sequence: Sequence) -> None:
        self._log.count(
            row,
            sequence.output_tokens,
            sequence.hit_tokens,
            sequence.chunks,
            sequence.preemptions,
            sequence.recomputed_tokens,
        )

    def _send(self, row: int, arrival_s: float) -> None:
        trace, prompts = self._trace, self._prompts
        prompt_tokens, output_tokens = trace.prompt_tokens.item(row), trace.output_tokens.item(row)
        deadline_s = trace.deadline_s.item(row)
        sequence = Sequence(
            trace.request_id.item(row),
            prompt_tokens,
            lambda: np.concatenate((prompts.prompt(row), prompts.output(row))),
            trace.max_tokens.item(row),
            foretold_tokens=output_tokens,
            priority=trace.priority.item(row),
            deadline_s=arrival_s + deadline_s,
            session_id=trace.session_id.item(row),
            client_id=trace.client_id.item(row),
        )
        self._log.arrival_s[row] = arrival_s
        self._log.times["sent_s"][row] = arrival_s
        self._api.put(Submission(row, sequence, arrival_s + self._costs.client_s))

    def _next(self, row: int, time_s: float) -> None:
        """Send what was waiting for this request, or for room."""
        arrivals = self._workload.arrivals
        followers = self._followers.get(row, [])
        for follower in followers:
            arrival_s = time_s + self._trace.think_s.item(follower)
            if arrivals is Arrivals.OPEN:
                arrival_s = max(arrival_s, self._trace.arrival_s.item(follower))
            self._send_at(follower, arrival_s)
        if arrivals is Arrivals.CLOSED:
            self._underway += len(followers) - 1
            while self._roots and self._underway < self._workload.concurrency:
                self._underway += 1
                self._send_at(self._roots.popleft(), time_s)
        self._left -= 1
        if not self._left:
            self.finished.succeed()

    def _send_at(self, row: int, arrival_s: float) -> None:
        self._env.at(arrival_s, lambda: self._send(row, arrival_s))

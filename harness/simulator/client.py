"""The client: sends requests by the workload's rules, and notes how each ended."""

from __future__ import annotations

from collections.abc import Generator

from simpy.events import Event

from harness.metrics.request_log import Counts, RequestLog
from harness.metrics.token_log import TokenLog
from harness.sending import Sending
from harness.simulator.environment import Environment
from harness.simulator.frontend import ApiServer, HopCosts, Submission
from harness.workload import Workload
from runtime.scheduler import Sequence
from traces.prompts import PromptMaker


class Client:
    """Sends every request of a workload.

    Attributes:
        finished: An event for the end of the last request.
        output_tokens: Tokens of the requests that have ended.

    Args:
        env: The clock.
        workload: What to send.
        prompts: Makes the token ids.
        api: Where requests go.
        log: Request table to write.
        tokens: Token times to close.
        costs: Of the way to the server.
    """

    def __init__(
        self,
        env: Environment,
        workload: Workload,
        prompts: PromptMaker,
        api: ApiServer,
        log: RequestLog,
        tokens: TokenLog,
        costs: HopCosts,
    ) -> None:
        self._env = env
        self._workload = workload
        self._sending = Sending(workload)
        self._prompts = prompts
        self._api = api
        self._log = log
        self._tokens = tokens
        self._costs = costs
        self.finished = env.event()
        self.output_tokens = 0

    def run(self) -> Generator[Event, None, None]:
        """The SimPy process: the requests that wait for no other."""
        for arrival_s, row in self._sending.at_start():
            if arrival_s > self._env.now:
                yield self._env.until(arrival_s)
            self._send(row, arrival_s)

    def row_ended(self, row: int, sequence: Sequence, time_s: float) -> None:
        """The client has the last token of a request."""
        log, times = self._log, self._log.times
        pool = log.arrival_s[row] >= self._workload.warmup_s
        times["client_last_token_s"][row] = time_s
        times["itl_p50_s"][row], times["itl_p99_s"][row], times["itl_max_s"][row] = self._tokens.close(
            sequence.request_id, sequence.output_tokens, pool
        )
        self.output_tokens += sequence.output_tokens
        self.note(row, sequence)
        log.end(row, "ok", sequence.finish_reason)
        self._next(row, time_s)

    def row_refused(self, row: int, sequence: Sequence, error: str, time_s: float) -> None:
        """The server refused a request."""
        self.note(row, sequence)
        self._log.end(row, "rejected", "error", error)
        self._next(row, time_s)

    def note(self, row: int, sequence: Sequence) -> None:
        """Write down what the server has counted for a request."""
        self._log.count(row, sequence.output_tokens, Counts.of(sequence))

    def _send(self, row: int, arrival_s: float) -> None:
        sequence = self._workload.sequence(row, arrival_s, lambda: self._prompts.dialogue(row))
        self._log.arrival_s[row] = arrival_s
        self._log.times["sent_s"][row] = arrival_s
        self._api.receive(Submission(row, sequence, arrival_s + self._costs.client_s))

    def _next(self, row: int, time_s: float) -> None:
        """Send what was waiting for this request, or for room."""
        for arrival_s, follower in self._sending.after(row, time_s):
            self._env.at(arrival_s, lambda arrival_s=arrival_s, follower=follower: self._send(follower, arrival_s))  # type: ignore[misc]
        if not self._sending.left:
            self.finished.succeed()

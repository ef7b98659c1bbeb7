"""The processes around the scheduler: API server, tokenizers, detokenizer, and the way back to the client.

Each is one FIFO server: it takes a message when it is free and has it, and is busy for the message's cost. That fixes
when it is done the moment the message is sent, so it passes the message on at once, with that time: messages reach each
of them in order, and only where somebody decides something, at the scheduler and at the client, does a time become a
SimPy event.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import isnan
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from harness.metrics.request_log import RequestLog
from harness.metrics.token_log import TokenLog
from harness.simulator.environment import Environment, Mailbox
from runtime.scheduler import Sequence

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class HopCosts:
    """CPU seconds of the processes around the scheduler, and of the way between them.

    Attributes:
        hop_s: A message from one process to the next.
        client_s: One way between client and API server.
        receive_s: API server, for each request.
        receive_token_s: API server, for each prompt token.
        tokenize_s: Tokenizer, for each request.
        tokenize_token_s: Tokenizer, for each prompt token.
        tokenizers: How many tokenizer processes.
        detokenize_s: Detokenizer, for each step's message.
        detokenize_token_s: Detokenizer, for each output token.
        send_s: API server, for each step's message.
        send_token_s: API server, for each output token (one SSE chunk).
    """

    hop_s: float = 40e-6
    client_s: float = 50e-6
    receive_s: float = 150e-6
    receive_token_s: float = 10e-9
    tokenize_s: float = 100e-6
    tokenize_token_s: float = 200e-9
    tokenizers: int = 1
    detokenize_s: float = 20e-6
    detokenize_token_s: float = 4e-6
    send_s: float = 20e-6
    send_token_s: float = 13e-6


class Submission(NamedTuple):
    """A request on its way in.

    Attributes:
        row: Of the trace.
        sequence: What the scheduler gets.
        at_s: When the next process has it.
    """

    row: int
    sequence: Sequence
    at_s: float


class Emission(NamedTuple):
    """A step's tokens on their way out.

    Attributes:
        time_s: When the next process has the message.
        tokens: How many.
        prefilled: Rows and request ids whose token a prefill sampled.
        decoded: Whether decoding sequences got tokens.
        ended: Rows whose last token this is, with the sequence.
    """

    time_s: float
    tokens: int
    prefilled: list[tuple[int, int]]
    decoded: bool
    ended: list[tuple[int, Sequence]]


class EmissionRun(NamedTuple):
    """The tokens of a run of decode steps, in none of which a sequence begins or ends.

    Attributes:
        times_s: (steps,) when the next process has each step's message.
        tokens: In each step.
        apart_s: Seconds between two of them, at least.
    """

    times_s: FloatArray
    tokens: int
    apart_s: float


class ApiServer:
    """Receives requests and passes them to a tokenizer.

    Args:
        tokenizers: Where requests go.
        log: Request table to write.
        costs: Of its work.
    """

    def __init__(self, tokenizers: Tokenizers, log: RequestLog, costs: HopCosts) -> None:
        self._tokenizers = tokenizers
        self._received_s = log.times["received_s"]
        self._costs = costs
        self._free_s = 0.0

    def receive(self, request: Submission) -> None:
        """A client sent a request."""
        row, sequence, at_s = request
        costs, free_s = self._costs, self._free_s
        self._received_s[row] = at_s
        cost_s = costs.receive_s + costs.receive_token_s * sequence.prompt_tokens
        self._free_s = done_s = (free_s if free_s > at_s else at_s) + cost_s
        self._tokenizers.receive(Submission(row, sequence, done_s + costs.hop_s))


class Tokenizers:
    """Turn prompts into token ids, the tokenizer that is free first taking the next.

    Args:
        env: The clock.
        scheduler: The scheduler's mailbox, where a request is put at the time when it is there.
        log: Request table to write.
        costs: Of their work.
    """

    def __init__(self, env: Environment, scheduler: Mailbox[Submission], log: RequestLog, costs: HopCosts) -> None:
        self._env = env
        self._scheduler = scheduler
        self._tokenized_s = log.times["tokenized_s"]
        self._costs = costs
        self._free_s = [0.0] * costs.tokenizers

    def receive(self, request: Submission) -> None:
        """The API server passed a request on."""
        row, sequence, at_s = request
        costs, free_s = self._costs, self._free_s
        first = free_s.index(min(free_s))
        cost_s = costs.tokenize_s + costs.tokenize_token_s * sequence.prompt_tokens
        free_s[first] = done_s = max(free_s[first], at_s) + cost_s
        self._tokenized_s[row] = done_s
        arrived = Submission(row, sequence, done_s + costs.hop_s)
        self._env.at(arrived.at_s, lambda: self._scheduler.put(arrived))


class Detokenizer:
    """Turns output tokens into text.

    Args:
        api: Where text goes.
        log: Request table to write.
        costs: Of its work.
    """

    def __init__(self, api: ApiSender, log: RequestLog, costs: HopCosts) -> None:
        self._api = api
        self._detokenized_s = log.times["detokenized_s"]
        self._costs = costs
        self._free_s = 0.0

    def receive(self, output: Emission) -> None:
        """The scheduler sent a step's tokens."""
        time_s, tokens, prefilled, decoded, ended = output
        costs, free_s = self._costs, self._free_s
        cost_s = costs.detokenize_s + costs.detokenize_token_s * tokens
        self._free_s = done_s = (free_s if free_s > time_s else time_s) + cost_s
        for row, _ in ended:
            self._detokenized_s[row] = done_s
        self._api.receive(Emission(done_s + costs.hop_s, tokens, prefilled, decoded, ended))

    def receive_run(self, run: EmissionRun) -> None:
        """The scheduler sent the tokens of a run of steps."""
        costs = self._costs
        done_s = _served(run, costs.detokenize_s + costs.detokenize_token_s * run.tokens, self._free_s)
        self._free_s = done_s.item(-1)
        self._api.receive_run(EmissionRun(done_s + costs.hop_s, run.tokens, run.apart_s))


class ApiSender:
    """Streams text to the clients (the API server's other half); the client's view of every token is recorded here.

    Args:
        log: Request table to write.
        tokens: Token times to write.
        costs: Of its work.
        ended: The client's, told of each request that ended: row, sequence, when it has the last token.
    """

    def __init__(
        self, log: RequestLog, tokens: TokenLog, costs: HopCosts, ended: Callable[[int, Sequence, float], None]
    ) -> None:
        self._sent_back_s, self._first_s = log.times["sent_back_s"], log.times["client_first_token_s"]
        self._tokens = tokens
        self._costs = costs
        self._ended = ended
        self._free_s = 0.0

    def receive(self, output: Emission) -> None:
        """The detokenizer passed a step's text on."""
        time_s, tokens, prefilled, decoded, ended = output
        costs, free_s = self._costs, self._free_s
        self._free_s = done_s = (free_s if free_s > time_s else time_s) + (costs.send_s + costs.send_token_s * tokens)
        seen_s = done_s + costs.client_s
        if decoded:
            self._tokens.decoded(seen_s)
        for row, request_id in prefilled:
            self._tokens.prefilled(request_id, seen_s)
            if isnan(self._first_s[row]):
                self._first_s[row] = seen_s
        for row, sequence in ended:
            self._sent_back_s[row] = done_s
            self._ended(row, sequence, seen_s)

    def receive_run(self, run: EmissionRun) -> None:
        """The detokenizer passed the text of a run of steps on."""
        costs = self._costs
        done_s = _served(run, costs.send_s + costs.send_token_s * run.tokens, self._free_s)
        self._free_s = done_s.item(-1)
        self._tokens.decoded_run(done_s + costs.client_s)


def _served(run: EmissionRun, cost_s: float, free_s: float) -> FloatArray:
    """When a FIFO server with one cost is done with each message (Lindley's recursion)."""
    times_s = run.times_s
    done_s = times_s + cost_s
    # A thousandth to spare: whatever the rounding, none comes before the one ahead of it is done.
    apart = cost_s < 0.999 * run.apart_s or (times_s[1:] >= done_s[:-1]).all()
    if apart and times_s.item(0) >= free_s:
        return done_s
    for index, time_s in enumerate(times_s.tolist()):
        done_s[index] = free_s = max(time_s, free_s) + cost_s
    return done_s

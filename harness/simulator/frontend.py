"""The processes around the scheduler: API server, tokenizers, detokenizer, and the way back to the client.

Each is one FIFO server: it takes a message when it is free and has it, and is busy for the message's cost. A message is
passed on with the time at which it will be done, so that a hop costs one SimPy event.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from math import isnan
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from simpy.events import Event

from harness.metrics.request_log import RequestLog
from harness.metrics.token_log import TokenLog
from harness.simulator.environment import Environment, Mailbox
from runtime.scheduler import Sequence

FloatArray = npt.NDArray[np.float64]
Process = Generator[Event, None, None]


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

    @property
    def matters(self) -> bool:
        """Whether a client may act on it, or shows it as progress: someone's first token, or last."""
        return bool(self.prefilled or self.ended)


class EmissionRun(NamedTuple):
    """The tokens of a run of decode steps, in none of which a sequence begins or ends.

    Attributes:
        times_s: (steps,) when the next process has each step's message.
        tokens: In each step.
    """

    times_s: FloatArray
    tokens: int


Output = Emission | EmissionRun


def api_server(
    inbox: Mailbox[Submission],
    tokenizer: Mailbox[Submission],
    log: RequestLog,
    costs: HopCosts,
) -> Process:
    """Receives requests and passes them to a tokenizer."""
    received_s = log.times["received_s"]
    free_s = 0.0
    while True:
        yield inbox.filled()
        for row, sequence, at_s in inbox.take():
            received_s[row] = at_s
            cost_s = costs.receive_s + costs.receive_token_s * sequence.prompt_tokens
            free_s = max(free_s, at_s) + cost_s
            tokenizer.put(Submission(row, sequence, free_s + costs.hop_s))


def tokenizers(
    env: Environment,
    inbox: Mailbox[Submission],
    queue: Callable[[Submission], None],
    log: RequestLog,
    costs: HopCosts,
) -> Process:
    """Turn prompts into token ids, the tokenizer that is free first taking the next."""
    tokenized_s = log.times["tokenized_s"]
    free_s = [0.0] * costs.tokenizers
    while True:
        yield inbox.filled()
        for row, sequence, at_s in inbox.take():
            first = min(range(len(free_s)), key=free_s.__getitem__)
            cost_s = costs.tokenize_s + costs.tokenize_token_s * sequence.prompt_tokens
            free_s[first] = done_s = max(free_s[first], at_s) + cost_s
            tokenized_s[row] = done_s
            arrived = Submission(row, sequence, done_s + costs.hop_s)
            env.at(arrived.at_s, lambda arrived=arrived: queue(arrived))  # type: ignore[misc]


def detokenizer(inbox: Mailbox[Output], api: Mailbox[Output], log: RequestLog, costs: HopCosts) -> Process:
    """Turns output tokens into text."""
    detokenized_s = log.times["detokenized_s"]
    free_s = 0.0
    while True:
        yield inbox.filled()
        for output in inbox.take():
            cost_s = costs.detokenize_s + costs.detokenize_token_s * output.tokens
            if isinstance(output, EmissionRun):
                done_s = _served(output.times_s, cost_s, free_s)
                free_s = done_s.item(-1)
                api.put(EmissionRun(done_s + costs.hop_s, output.tokens), wake=False)
                continue
            free_s = max(output.time_s, free_s) + cost_s
            for row, _ in output.ended:
                detokenized_s[row] = free_s
            api.put(output._replace(time_s=free_s + costs.hop_s), wake=output.matters)


def api_sender(
    inbox: Mailbox[Output],
    log: RequestLog,
    tokens: TokenLog,
    costs: HopCosts,
    ended: Callable[[int, Sequence, float], None],
) -> Process:
    """Streams text to the clients (the API server's other half); the client's view of every token is recorded here."""
    sent_back_s, first_s = log.times["sent_back_s"], log.times["client_first_token_s"]
    free_s = 0.0
    while True:
        yield inbox.filled()
        for output in inbox.take():
            cost_s = costs.send_s + costs.send_token_s * output.tokens
            if isinstance(output, EmissionRun):
                done_s = _served(output.times_s, cost_s, free_s)
                free_s = done_s.item(-1)
                tokens.decoded_run(done_s + costs.client_s)
                continue
            free_s = max(output.time_s, free_s) + cost_s
            seen_s = free_s + costs.client_s
            if output.decoded:
                tokens.decoded(seen_s)
            for row, request_id in output.prefilled:
                tokens.prefilled(request_id, seen_s)
                if isnan(first_s[row]):
                    first_s[row] = seen_s
            for row, sequence in output.ended:
                sent_back_s[row] = free_s
                ended(row, sequence, seen_s)


def _served(arrivals_s: FloatArray, cost_s: float, free_s: float) -> FloatArray:
    """When a FIFO server with one cost is done with each arrival (Lindley's recursion)."""
    done_s = arrivals_s + cost_s
    if arrivals_s[0] >= free_s and (arrivals_s[1:] >= done_s[:-1]).all():
        return done_s
    for index, arrival_s in enumerate(arrivals_s.tolist()):
        done_s[index] = free_s = max(arrival_s, free_s) + cost_s
    return done_s

"""What rank 0 does besides computing: it receives for all ranks, answers, and keeps the books of requests and steps."""

from __future__ import annotations

import math
import time
from array import array

from runtime.engine.engine import StepResult, StepRun
from runtime.messages import (
    DETOKENIZER,
    Abort,
    Ended,
    Gathering,
    Gauges,
    Logprobs,
    Ping,
    Refused,
    Sampled,
    StepRecord,
    Stop,
    Tokenized,
    ToWorker,
)
from runtime.scheduler import Batch, Scheduler, Sequence, StepOutputs
from runtime.server.config import ServerConfig
from runtime.server.mail import Inbox, Outbox
from runtime.server.ranks import Leader, RankMessage
from runtime.server.tokenizer import NEVER, refusal


class _Request:
    """What rank 0 remembers of a request."""

    __slots__ = ("first_token_s", "received_s", "scheduled_s", "tokenized_s")

    def __init__(self, received_s: float, tokenized_s: float) -> None:
        self.received_s = received_s
        self.tokenized_s = tokenized_s
        self.scheduled_s = NEVER
        self.first_token_s = NEVER

    def ended(self, sequence: Sequence, error: str | None, now: float) -> Ended:
        """The request as it is told of when it has ended."""
        return Ended(
            "error" if error is not None else str(sequence.finish_reason),
            error,
            sequence.prompt_tokens,
            sequence.output_tokens,
            sequence.hit_tokens,
            sequence.chunks,
            sequence.preemptions,
            sequence.recomputed_tokens,
            sequence.preempted_s,
            self.received_s,
            self.tokenized_s,
            sequence.queued_s if error is None else now,
            self.scheduled_s,
            self.first_token_s,
            now if sequence.output_tokens else NEVER,
        )


class LeaderSide:
    """What rank 0 does besides computing: receives for all, answers, and keeps the records.

    Args:
        inbox: Its own.
        outbox: Its own.
        config: The server.
        scheduler: To ask for its state.
        leader: Tells the other ranks, if there are any.
    """

    def __init__(
        self, inbox: Inbox, outbox: Outbox, config: ServerConfig, scheduler: Scheduler, leader: Leader | None
    ) -> None:
        self._inbox = inbox
        self._outbox = outbox
        self._scheduler = scheduler
        self._leader = leader
        self._pages = scheduler.config.pages
        self._records_to = config.record_steps
        self._requests: dict[int, _Request] = {}
        self._gathering = 0  # requests still to come before a step is planned
        self._received: list[RankMessage] = []
        self._now = 0.0  # when the loop last received
        self._launches: dict[int, tuple[float, float]] = {}  # step -> when the loop received for it, and launched it
        self._device_free_s = NEVER
        self._logprobs: dict[int, Logprobs] = {}  # request id -> of the token collected, not yet delivered

    def receive(self, wait: bool) -> tuple[float, list[RankMessage]]:
        """What came for the serving loop, waiting for it if ``wait``."""
        self._take(self._inbox.take())
        while self._gathering or (wait and not self._received):
            self._take(self._inbox.wait())
        received, self._received = self._received, []
        self._now = now = time.monotonic()
        if self._leader is not None:
            self._leader.turn(now, received)
        return now, received

    def launching(self, batch: Batch) -> None:
        """A step is about to be launched."""
        now = time.monotonic()
        for sequence in batch.admitted:
            self._requests[sequence.request_id].scheduled_s = now
        if self._records_to is not None:
            self._launches[batch.step] = self._now, now

    def collected(self, batch: Batch, result: StepResult) -> None:
        """A step has ended."""
        if result.logprobs:
            for sequence, found in zip(batch.sampled(), result.logprobs, strict=True):
                if found is not None:
                    self._logprobs[sequence.request_id] = Logprobs(found.logprob, found.top_ids, found.top_logprobs)
        if self._records_to is not None:
            self._outbox.send(self._records_to, self._record(batch, result.run))

    def deliver(self, outputs: StepOutputs) -> None:
        """Tell the detokenizer of a committed step."""
        now = time.monotonic()
        sequences, tokens = outputs.sequences, outputs.tokens
        if not sequences:
            return
        if tokens is None:
            tokens = [int(s.tokens[s.prompt_tokens + s.output_tokens - 1]) for s in sequences]
        for sequence in sequences[: outputs.prefilled]:
            if sequence.output_tokens == 1:
                self._requests[sequence.request_id].first_token_s = now
        request_ids = [sequence.request_id for sequence in sequences]
        logprobs: list[Logprobs | None] = []
        if self._logprobs:
            logprobs = [self._logprobs.get(request_id) for request_id in request_ids]
            self._logprobs.clear()
        ended = [(s.request_id, self._requests.pop(s.request_id).ended(s, None, now)) for s in outputs.finished]
        sampled = Sampled(array("q", request_ids).tobytes(), array("i", tokens).tobytes(), logprobs, ended)
        self._outbox.send(DETOKENIZER, sampled)

    def end(self, sequence: Sequence, error: str | None) -> None:
        """Tell the detokenizer of a request that ended without a step."""
        request = self._requests.pop(sequence.request_id)
        ended = request.ended(sequence, error, time.monotonic())
        self._outbox.send(DETOKENIZER, Sampled(b"", b"", [], [(sequence.request_id, ended)]))

    def _take(self, messages: list[ToWorker]) -> None:
        for message in messages:
            if isinstance(message, Tokenized):
                self._arrive(message)
                self._gather_one()
            elif isinstance(message, Refused):
                self._gather_one()
            elif isinstance(message, Abort):
                self._received.append(message)
            elif isinstance(message, Stop):
                self._gathering = 0
                self._received.append(message)
            elif isinstance(message, Ping):
                pong = Ping(message.frontend, message.number, self._gauges())
                self._outbox.send(DETOKENIZER, pong)
            else:
                self._gathering = message.requests
                self._outbox.send(message.frontend, Gathering())

    def _arrive(self, tokenized: Tokenized) -> None:
        opening = tokenized.opening
        request_id = opening.request_id
        problem = None
        if request_id in self._requests:
            problem = "this request_id is already being served"
        elif len(tokenized.prompt) % 4 or len(tokenized.foretold or b"") % 4:
            problem = "token ids are int32"
        if problem is not None:
            self._outbox.send(opening.frontend, refusal(request_id, f"request {request_id}: {problem}"))
            return
        self._requests[request_id] = _Request(tokenized.received_s, tokenized.tokenized_s)
        self._outbox.send(DETOKENIZER, opening)
        self._received.append(tokenized)

    def _gather_one(self) -> None:
        """A request came that may have been waited for, were it only to be refused."""
        if self._gathering:
            self._gathering -= 1
            if not self._gathering:
                self._received.sort(key=_received_s)

    def _gauges(self) -> Gauges:
        scheduler = self._scheduler
        running = scheduler.prefilling_sequences + scheduler.decoding_sequences
        memory = scheduler.memory
        return Gauges(
            scheduler.waiting_sequences,
            running,
            memory.pool.free,
            memory.cache.evictable_pages,
            self._pages,
        )

    def _record(self, batch: Batch, run: StepRun | None) -> StepRecord:
        now = time.monotonic()
        planned_s, launched_s = self._launches.pop(batch.step)
        chunks, free_s = batch.chunks, self._device_free_s
        if run is None:  # what can be seen from here
            start_s = launched_s if math.isnan(free_s) else max(launched_s, free_s)
            run = StepRun(start_s, now - start_s, len(chunks) + len(batch.decodes), graph=False)
        self._device_free_s = run.start_s + run.duration_s
        return StepRecord(
            batch.step,
            run.start_s,
            run.duration_s,
            run.padded_sequences,
            run.graph,
            0.0 if math.isnan(free_s) else max(run.start_s - free_s, 0.0),
            launched_s - planned_s,
            planned_s,
            now,
            array("q", [chunk.sequence.request_id for chunk in chunks]).tobytes(),
            array("i", [chunk.tokens for chunk in chunks]).tobytes(),
            array("q", [sequence.request_id for sequence in batch.decodes]).tobytes(),
            batch.snapshot,
        )


def _received_s(message: RankMessage) -> float:
    return message.received_s if isinstance(message, Tokenized) else math.inf

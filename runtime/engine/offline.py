"""The serving loop answered in one process: requests in, tokens out, no messages between."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable
from typing import Any

from runtime.engine.engine import Engine, TokenLogprobs
from runtime.scheduler import Scheduler, Sequence, StepOutputs
from runtime.scheduler.loop import Abort, Arrive, Collect, Deliver, Ended, Launch, Message, Receive, Stop, serve


def run_offline(
    scheduler: Scheduler, engine: Engine[Any], sequences: Iterable[Sequence], *, overlap: bool = True
) -> Generator[tuple[StepOutputs, list[TokenLogprobs | None]] | Ended]:
    """Run sequences to their ends, all at once.

    Closing the iterator early aborts what is unfinished and lets the step in flight end: scheduler and engine can be
    used again.

    Args:
        scheduler: Idle.
        engine: Reads the scheduler's page table; it has admitted the sequences.
        sequences: To run.
        overlap: Whether a step is launched before the one before it is committed.

    Yields:
        Each step committed, with the log-probabilities of its tokens; and each sequence that was refused.
    """
    sequences = list(sequences)
    inbox: list[Message] = [*map(Arrive, sequences), Stop()]
    loop = serve(scheduler, overlap=overlap)
    logprobs: dict[int, TokenLogprobs | None] = {}  # of the step collected last, by request id
    effect, closed = next(loop), False
    while True:
        answer: Any = None
        if isinstance(effect, Receive):
            answer, inbox = (time.monotonic(), inbox), []
        elif isinstance(effect, Launch):
            answer = engine.launch(effect.batch)
        elif isinstance(effect, Collect):
            result = engine.collect(effect.ticket)
            answer = result.tokens
            sampled = (sequence.request_id for sequence in effect.batch.sampled())
            logprobs = dict(zip(sampled, result.logprobs, strict=False))  # empty where none were asked for
        elif not closed and isinstance(effect, Deliver | Ended):
            try:
                if isinstance(effect, Ended):
                    yield effect
                else:
                    outputs = effect.outputs
                    yield outputs, [logprobs.get(sequence.request_id) for sequence in outputs.sequences]
            except GeneratorExit:
                closed = True
                inbox.extend(Abort(sequence.request_id) for sequence in sequences)
        try:
            effect = loop.send(answer)
        except StopIteration:
            return

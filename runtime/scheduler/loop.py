"""The serving loop, without I/O: what to wait for, and what to do then.

It is written once. A worker process of the real server answers with a socket and a CUDA event, the simulator with SimPy
events: each drives the generator, doing what it yields and sending back the answer.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from runtime.scheduler.batch import Ahead, Batch, DecodeRun, StepOutputs
from runtime.scheduler.leap import LeapingScheduler
from runtime.scheduler.rejection import RequestRejectedError
from runtime.scheduler.scheduler import Scheduler
from runtime.scheduler.sequence import Sequence


@dataclass(slots=True)
class Arrive:
    """A message to the loop: a request."""

    sequence: Sequence


@dataclass(slots=True)
class Abort:
    """A message to the loop: a request whose client is gone."""

    request_id: int


@dataclass(slots=True)
class Stop:
    """A message to the loop: end when every request that came before has ended."""


Message = Arrive | Abort | Stop


@dataclass(slots=True)
class Receive:
    """Take in the messages that came, waiting for one if ``wait``. Answer: ``(now, messages)``, now in seconds."""

    wait: bool


@dataclass(slots=True)
class Launch:
    """Have the engine begin a step, without waiting for it. Answer: a ticket."""

    batch: Batch


@dataclass(slots=True)
class Collect:
    """Wait for a step to end. Answer: the tokens of ``batch.sampled()``, or None where they were foretold."""

    batch: Batch
    ticket: Any


@dataclass(slots=True)
class Deliver:
    """Send a committed step's tokens on their way. No answer."""

    outputs: StepOutputs


@dataclass(slots=True)
class Ended:
    """Tell a client that its request ended without a step: refused or aborted. No answer."""

    sequence: Sequence
    error: str | None


@dataclass(slots=True)
class Foresee:
    """Steps need no decision. Answer: how many there is time for, at least one, before the next message is looked at.

    Where a step was in flight, it ends and is committed as soon as the first of them is launched: ``batch`` and
    ``outputs`` are that step's, to be delivered then.
    """

    ahead: Ahead
    batch: Batch | None
    outputs: StepOutputs | None


@dataclass(slots=True)
class Repeat:
    """The foreseen steps were run. Answer: the ticket of the last."""

    run: DecodeRun


Effect = Receive | Launch | Collect | Deliver | Ended | Foresee | Repeat


def serve(scheduler: Scheduler, *, overlap: bool) -> Generator[Effect, Any, None]:
    """The serving loop: receive, schedule, launch, commit, deliver.

    With a :class:`LeapingScheduler`, whose outputs are all foretold, decode steps that need no decision are run as one.

    Args:
        scheduler: Its sequences come in messages.
        overlap: Whether a step is scheduled and launched before the one before it is committed.
    """
    leaping = scheduler if isinstance(scheduler, LeapingScheduler) else None
    in_flight: tuple[Batch, Any] | None = None
    idle, stopping = True, False
    while not (stopping and idle and not scheduler.unfinished()):
        now, messages = yield Receive(wait=idle)
        for message in messages:
            if isinstance(message, Arrive):
                try:
                    scheduler.add(message.sequence, now)
                except RequestRejectedError as error:
                    yield Ended(message.sequence, str(error))
            elif isinstance(message, Abort):
                aborted = scheduler.abort(message.request_id)
                if aborted is not None:
                    yield Ended(aborted, None)
            else:
                stopping = True

        if leaping is not None and overlap is (in_flight is not None):
            flying = None if in_flight is None else in_flight[0]
            ahead = leaping.look_ahead(now, flying)
            if ahead is not None:
                outputs = None if flying is None else scheduler.commit(flying, None, now)
                run = leaping.leap(ahead, (yield Foresee(ahead, flying, outputs)))
                ticket = yield Repeat(run)
                in_flight = (run.batch, ticket) if overlap else None
                idle = False
                continue

        batch = scheduler.schedule(now)
        launched = None if batch is None else (batch, (yield Launch(batch)))
        due, in_flight = (in_flight, launched) if overlap else (launched, None)
        if due is not None:
            tokens = yield Collect(*due)
            yield Deliver(scheduler.commit(due[0], tokens, now))
        idle = launched is None and due is None

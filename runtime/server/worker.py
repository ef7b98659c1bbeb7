"""The worker process: one rank's scheduler and engine. It answers the serving loop out of sockets and the engine."""

from __future__ import annotations

import gc
import logging
from typing import Any

import numpy as np

from policies import build_policy
from runtime.engine.engine import StepResult
from runtime.engine.place import EnginePlace, LoadedEngine
from runtime.messages import LAUNCHER, WORKER, Abort, Ready, Tokenized, ToRank, ToWorker, ids_of
from runtime.scheduler import Batch, Scheduler, Sequence, StepOutputs, loop
from runtime.server.config import Place, imported
from runtime.server.leader import LeaderSide
from runtime.server.mail import Inbox, Outbox
from runtime.server.pulse import Pulse
from runtime.server.ranks import Alone, Conductor, Follower, Leader, RankMessage
from runtime.server.text import load_tokenizer


class WorkerProcess:
    """One rank.

    Args:
        place: Its name and its server.
        pulse: Told which steps it waits for.
    """

    def __init__(self, place: Place, pulse: Pulse) -> None:
        config = place.config
        self._pulse = pulse
        rank = int(place.name.partition(".")[2])
        self._outbox = Outbox(place.path)
        policy = build_policy(config.policy)
        rendezvous = f"file://{place.path / 'rendezvous'}"
        engine_place = EnginePlace(config.scheduler, policy.batching.step_tokens, rank, config.tp, rendezvous)
        inbox = Inbox(place.path, place.name, ToWorker if rank == 0 else ToRank)
        if rank == 0:
            logging.getLogger("runtime.engine").setLevel(logging.INFO)  # how far the engine is in starting
        loaded: LoadedEngine = imported(config.engine.factory)(config.engine.options, engine_place)
        self._scheduler = Scheduler(loaded.scheduler, policy)
        pulse.pages = self._scheduler.config.pages
        self._engine = loaded.start(self._scheduler.memory.table)
        self._name = place.name
        self._overlap = config.overlap
        others = [WORKER.format(other) for other in range(1, config.tp)]
        self._conductor: Conductor
        if rank > 0:
            self._conductor = follower = Follower(rank, inbox)
            self._side: LeaderSide | FollowerSide = FollowerSide(follower)
        else:
            leader = Leader(self._outbox, others) if others else None
            self._conductor = leader or Alone()
            self._side = LeaderSide(inbox, self._outbox, config, self._scheduler, leader)
        self._eos_ids = load_tokenizer(config.tokenizer).eos_ids

    def run(self) -> None:
        """Serve until told to stop."""
        gc.collect()  # not while the first request waits
        gc.freeze()
        self._outbox.send(LAUNCHER, Ready(self._name, pages=self._scheduler.config.pages))
        effects = loop.serve(self._scheduler, overlap=self._overlap)
        side, engine, conductor, pulse = self._side, self._engine, self._conductor, self._pulse
        answer: Any = None
        try:
            effect = next(effects)
            while True:
                answer = None
                if isinstance(effect, loop.Receive):
                    now, messages = side.receive(effect.wait)
                    answer = now, [self._taken_in(message) for message in messages]
                elif isinstance(effect, loop.Launch):
                    conductor.decide(effect.batch)
                    side.launching(effect.batch)
                    pulse.launching(effect.batch)
                    answer = engine.launch(effect.batch)
                elif isinstance(effect, loop.Collect):
                    result = engine.collect(effect.ticket)
                    pulse.collected()
                    answer = result.tokens
                    if answer is not None:
                        conductor.sample(answer)
                    side.collected(effect.batch, result)
                elif isinstance(effect, loop.Deliver):
                    side.deliver(effect.outputs)
                    for sequence in effect.outputs.finished:
                        engine.forget(sequence.request_id)
                elif isinstance(effect, loop.Ended):
                    side.end(effect.sequence, effect.error)
                    engine.forget(effect.sequence.request_id)
                else:
                    raise AssertionError(f"the plain scheduler does not leap: {effect}")
                effect = effects.send(answer)
        except StopIteration:
            pass
        engine.close()
        self._outbox.close()

    def _taken_in(self, message: RankMessage) -> loop.Message:
        """A message as the serving loop knows it."""
        if isinstance(message, Tokenized):
            sequence = sequence_of(message, self._eos_ids, self._scheduler.config.longest)
            self._engine.admit(sequence.request_id, message.params)
            return loop.Arrive(sequence)
        if isinstance(message, Abort):
            return loop.Abort(message.request_id)
        return loop.Stop()


class FollowerSide:
    """What the other ranks do besides computing: as they are told.

    Args:
        follower: Hears from rank 0.
    """

    def __init__(self, follower: Follower) -> None:
        self._follower = follower

    def receive(self, wait: bool) -> tuple[float, list[RankMessage]]:
        """What rank 0 received."""
        del wait
        turn = self._follower.turn()
        return turn.now, turn.messages

    def launching(self, batch: Batch) -> None:
        """Rank 0 keeps the records."""

    def collected(self, batch: Batch, result: StepResult) -> None:
        """Rank 0 keeps the records."""

    def deliver(self, outputs: StepOutputs) -> None:
        """Rank 0 answers."""

    def end(self, sequence: Sequence, error: str | None) -> None:
        """Rank 0 answers."""


def sequence_of(message: Tokenized, eos_ids: frozenset[int], longest: int) -> Sequence:
    """The sequence of a request, the same on every rank.

    Args:
        message: The request.
        eos_ids: Tokens that end an output.
        longest: Tokens of the longest sequence: where a request sets no ``max_tokens``, it may grow so far.
    """
    prompt = ids_of(message.prompt)
    # A prompt that leaves no room is the scheduler's to refuse.
    max_tokens = max(longest - len(prompt), 1) if message.max_tokens is None else message.max_tokens
    tokens = prompt
    foretold_tokens = None
    if message.foretold is not None:
        foretold = ids_of(message.foretold)
        foretold_tokens = len(foretold)
        tokens = np.concatenate([prompt, foretold])
    else:
        # The engine's tokens are written behind the prompt.
        tokens = np.concatenate([prompt, np.zeros(16, np.int32)])
    return Sequence(
        message.opening.request_id,
        len(prompt),
        tokens,
        max_tokens,
        foretold_tokens=foretold_tokens,
        stop_ids=frozenset() if message.ignore_eos or foretold_tokens is not None else eos_ids,
        priority=message.priority,
        deadline_s=message.deadline_s,
        session_id=message.session_id,
        client_id=message.client_id,
    )

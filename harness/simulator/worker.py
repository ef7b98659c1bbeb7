"""The scheduler and its engine: drives the serving loop, as a worker process of the real server does."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from simpy.events import Event

from harness.metrics.request_log import RequestLog
from harness.metrics.step_log import StepLog
from harness.metrics.token_log import TokenLog
from harness.simulator.engine import Foresight, ModelledEngine
from harness.simulator.environment import Environment, Mailbox
from harness.simulator.frontend import Detokenizer, Emission, EmissionRun, HopCosts, Submission
from runtime.scheduler import Batch, DecodeRun, Scheduler, Sequence, StepOutputs
from runtime.scheduler.loop import (
    Arrive,
    Collect,
    Deliver,
    Ended,
    Foresee,
    Launch,
    Message,
    Receive,
    Repeat,
    serve,
)

Process = Generator[Event, None, None]


class Worker:
    """Answers the serving loop out of SimPy's clock and a modelled engine.

    Args:
        env: The clock.
        scheduler: The core.
        engine: Plays the device, and says what the host spends.
        inbox: Where tokenized requests come.
        detokenizer: Where tokens go.
        refused: Told of a request that was refused: row, sequence, message, time.
        requests: Request table to write.
        steps: Step table to write.
        tokens: Told which sequences decode.
        hops: Costs of the way to the detokenizer.
        gather: Plan no step before so many requests are in: where all are sent at once, decisions then do not hang on
            how fast they came.
    """

    def __init__(
        self,
        env: Environment,
        scheduler: Scheduler,
        engine: ModelledEngine,
        inbox: Mailbox[Submission],
        detokenizer: Detokenizer,
        refused: Callable[[int, Sequence, str, float], None],
        requests: RequestLog,
        steps: StepLog,
        tokens: TokenLog,
        hops: HopCosts,
        gather: int,
    ) -> None:
        self._env = env
        self._scheduler = scheduler
        self._engine = engine
        self._inbox = inbox
        self._detokenizer = detokenizer
        self._refused = refused
        self._times = requests.times
        self._steps = steps
        self._tokens = tokens
        self._hop_s = hops.hop_s
        self._gather = gather
        self._rows: dict[int, int] = {}  # request id -> row, of the requests in the server
        self._host_s = 0.0

    def unfinished(self) -> list[tuple[int, Sequence]]:
        """Row and sequence of every request in the scheduler."""
        return [(self._rows[sequence.request_id], sequence) for sequence in self._scheduler.unfinished()]

    def run(self) -> Process:
        """The SimPy process."""
        loop = serve(self._scheduler, overlap=self._engine.overlap)
        effect = next(loop)
        foresight: Foresight | None = None
        answer: Any
        while True:
            answer = None
            if isinstance(effect, Receive):
                answer = yield from self._receive(effect.wait)
            elif isinstance(effect, Launch):
                answer = self._launch(effect.batch)
            elif isinstance(effect, Collect):
                self._host_s = self._engine.commit(effect.batch.samples, effect.ticket, self._host_s)
            elif isinstance(effect, Deliver):
                self._deliver(effect.outputs, self._host_s)
            elif isinstance(effect, Foresee):
                foresight = self._engine.foresee(effect.ahead, effect.batch, self._host_s)
                if effect.outputs is not None:
                    self._deliver(effect.outputs, foresight.host_s.item(0))
                answer = yield from self._pass_time(foresight)
            elif isinstance(effect, Repeat):
                if foresight is None:
                    raise AssertionError("steps repeated that were not foreseen")
                answer = self._repeat(effect.run, foresight)
            else:
                self._end(effect)
            effect = loop.send(answer)

    def _receive(self, wait: bool) -> Generator[Event, None, tuple[float, list[Message]]]:
        env, inbox = self._env, self._inbox
        if not env.skip_to(self._host_s):
            yield env.until(self._host_s)
        if wait:
            while len(inbox) < max(self._gather, 1):
                yield inbox.arrival()
            self._gather = 0
            yield env.until(env.now)  # all that arrive at this very time
            self._host_s = env.now
        messages: list[Message] = []
        for row, sequence, _ in inbox.take():
            self._rows[sequence.request_id] = row
            messages.append(Arrive(sequence))
        return self._host_s, messages

    def _launch(self, batch: Batch) -> float:
        now = self._host_s
        for sequence in batch.admitted:
            self._times["scheduled_s"][self._rows[sequence.request_id]] = now
            self._times["queued_s"][self._rows[sequence.request_id]] = sequence.queued_s
        decode_step = self._steps.decode_steps
        self._host_s, timing = self._engine.launch(batch, now)
        self._changed(self._steps.step(batch, timing), decode_step)
        return timing.start_s + timing.duration_s

    def _deliver(self, outputs: StepOutputs, time_s: float) -> None:
        rows = self._rows
        prefilled, ended = [], []
        for sequence in outputs.sequences[: outputs.prefilled]:
            row = rows[sequence.request_id]
            if sequence.output_tokens == 1:
                self._times["first_token_s"][row] = time_s
            prefilled.append((row, sequence.request_id))
        for sequence in outputs.finished:
            row = rows.pop(sequence.request_id)
            self._times["last_token_s"][row] = time_s
            ended.append((row, sequence))
        self._detokenizer.receive(
            Emission(time_s + self._hop_s, len(outputs.sequences), prefilled, outputs.decoded, ended)
        )

    def _pass_time(self, foresight: Foresight) -> Generator[Event, None, int]:
        """Wait until the foreseen steps are over or a message comes; returns how many steps that is."""
        env, inbox, host_s = self._env, self._inbox, foresight.host_s
        end_s = host_s.item(-1)
        while not inbox:
            if env.skip_to(end_s):
                return len(host_s)
            yield env.until(min(env.peek(), end_s))
        # The loop looks for messages after each step: it sees this one after the first that ends from now on.
        return int(host_s.searchsorted(env.now)) + 1

    def _repeat(self, run: DecodeRun, foresight: Foresight) -> float:
        decode_step = self._steps.decode_steps
        self._changed(self._steps.run(run, self._engine.repeat(foresight, run.steps)), decode_step)
        host_s = foresight.host_s[: run.steps]
        self._host_s = host_s.item(-1)
        if self._engine.overlap:
            host_s = host_s[1:]  # the first is when the step before them was committed
        if len(host_s):
            self._detokenizer.receive_run(EmissionRun(host_s + self._hop_s, len(run.batch.decodes), foresight.apart_s))
        return foresight.device_free_s.item(run.steps - 1)

    def _changed(self, changes: tuple[list[Sequence], list[Sequence]], decode_step: int) -> None:
        """Sequences joined and left those that decode with that step."""
        joined, left = changes
        for sequence in joined:
            self._tokens.joined(sequence.request_id, decode_step)
        for sequence in left:
            self._tokens.left(sequence.request_id, decode_step)

    def _end(self, ended: Ended) -> None:
        sequence = ended.sequence
        row = self._rows.pop(sequence.request_id)
        self._refused(row, sequence, ended.error or "aborted", self._host_s)

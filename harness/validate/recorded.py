"""The scheduler replayed on a real server's recorded timing: what it knew at each step is then what it knew there.

Between a simulated and a real run with timed arrivals, decisions differ as soon as a request reaches the scheduler one
step sooner. Here the core gets each request in the turn of the serving loop in which the real one had it, so that every
decision must be the same: what is left is a difference of the code, not of the clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from harness.metrics.request_log import Counts, RequestLog
from harness.metrics.schema import STATUSES
from harness.metrics.step_log import StepLog, StepTiming
from harness.record import RunRecord
from harness.validate.errors import ValidationError
from harness.workload import Workload
from policies import Policy
from runtime.scheduler import Batch, Scheduler, SchedulerConfig, Sequence
from runtime.scheduler.loop import Arrive, Collect, Deliver, Ended, Launch, Message, Receive, Stop, serve
from traces.prompts import PromptMaker

SIZES = ("pages", "page_size", "max_running", "max_context")


def sizes_of(record: RunRecord) -> SchedulerConfig:
    """The sizes that a server recorded at its start.

    Raises:
        ValidationError: It did not.
    """
    missing = [name for name in SIZES if name not in record.server]
    if missing:
        raise ValidationError(f"the run does not tell the server's {missing[0]}: replay it with backend=runtime or sim")
    return SchedulerConfig(**{name: int(record.server[name]) for name in SIZES})


def replay_recorded(
    recorded: RunRecord,
    workload: Workload,
    policy: Policy,
    *,
    overlap: bool,
    vocab_size: int,
    observe: Callable[[Batch], None] = lambda _: None,
) -> RunRecord:
    """Replay the scheduler on the timing of a real run.

    Args:
        recorded: A complete run of our own server, every output foretold.
        workload: What it replayed.
        policy: As it had; it belongs to this replay from now on.
        overlap: As it had.
        vocab_size: Of its model.
        observe: Told of each batch before it is launched.

    Returns:
        Its decisions and counts, with the recorded times; where it comes to more steps than were recorded, those
        up to there.

    Raises:
        ValidationError: The run has no step table, or not all of its requests ended ok or rejected.
    """
    if recorded.steps is None:
        raise ValidationError("the run has no step table: replay it with backend=runtime, client=direct")
    if "planned_s" not in recorded.steps or bool(np.isnan(recorded.steps["planned_s"]).any()):
        raise ValidationError("the run does not tell when its steps were planned: replay it with backend=runtime")
    if not recorded.complete:
        raise ValidationError("the run is incomplete: some requests tell no moments; run it to its end")
    sizes = sizes_of(recorded)
    scheduler = Scheduler(sizes, policy)
    arrivals = _arrivals(recorded.requests)
    prompts = PromptMaker(workload.trace, vocab_size, workload.prompt_seed)
    sequences: dict[int, Sequence] = {}

    def arrive(row: int) -> Arrive:
        arrival_s = recorded.requests["arrival_s"].item(row)
        sequences[row] = workload.sequence(row, arrival_s, partial(prompts.dialogue, row))
        return Arrive(sequences[row])

    steps = recorded.steps
    recorded_steps = len(steps["planned_s"])
    log = StepLog(sizes.pages)
    clock = _Clock(steps["planned_s"], steps["collected_s"])
    loop = serve(scheduler, overlap=overlap)
    effect = next(loop)
    answer: Any
    while True:
        answer = None
        if isinstance(effect, Receive):
            received_s, rows = arrivals.until(np.inf if effect.wait else clock.turn_ends_s())
            messages: list[Message] = [arrive(row) for row in rows]
            if effect.wait and not messages:
                messages = [Stop()]
            answer = clock.now(received_s), messages
        elif isinstance(effect, Launch):
            step = effect.batch.step
            if step >= recorded_steps:
                break  # parted: the real server had no such step
            observe(effect.batch)
            log.step(effect.batch, _timing(steps, step))
            clock.launched(step)
        elif isinstance(effect, Collect):
            clock.collected(effect.batch.step)
        elif not isinstance(effect, Deliver | Ended):
            raise AssertionError(f"the plain scheduler does not leap: {effect}")
        try:
            effect = loop.send(answer)
        except StopIteration:
            break
    requests = _requests(recorded, workload, sequences)
    return RunRecord(requests, log.columns(), log.decisions(), None, complete=True, server=dict(recorded.server))


class _Clock:
    """Where a replay stands in the recorded time.

    Args:
        planned_s: (steps,) when the loop received, in the turn in which it planned each step.
        collected_s: (steps,) when it had the tokens of each.
    """

    def __init__(self, planned_s: Any, collected_s: Any) -> None:
        self._planned_s, self._collected_s = planned_s, collected_s
        self._in_flight: list[int] = []
        self._next = 0
        self._last_s = 0.0  # when the last step collected was

    def launched(self, step: int) -> None:
        """A step is in flight."""
        self._in_flight.append(step)
        self._next = step + 1

    def collected(self, step: int) -> None:
        """The oldest step in flight has ended."""
        self._in_flight.remove(step)
        self._last_s = self._collected_s.item(step)

    def turn_ends_s(self) -> float:
        """No earlier than this turn of the loop received, and earlier than the next one did.

        A turn that finds a step in flight collects it before the next one; a turn that finds none plans one.
        """
        if self._in_flight:
            return float(self._collected_s.item(self._in_flight[0]))
        return self._planned()

    def now(self, received_s: float) -> float:
        """The time of this turn: exact where it received a request or planned a step."""
        if received_s > self._last_s:
            return received_s
        planned_s = self._planned()
        return planned_s if planned_s <= self.turn_ends_s() < float("inf") else self._last_s

    def _planned(self) -> float:
        return float(self._planned_s.item(self._next)) if self._next < len(self._planned_s) else float("inf")


class _Arrivals:
    """Requests in the turns in which the scheduler got them.

    Args:
        turns: When a turn received, and the rows it did, in order of time.
    """

    def __init__(self, turns: Iterator[tuple[float, list[int]]]) -> None:
        self._turns = turns
        self._next = next(turns, None)

    def until(self, time_s: float) -> tuple[float, list[int]]:
        """The next turn that received anything, if that was before ``time_s``; else none."""
        turn = self._next
        if turn is None or turn[0] > time_s:
            return -np.inf, []
        self._next = next(self._turns, None)
        return turn


def _arrivals(requests: dict[str, Any]) -> _Arrivals:
    """All that a turn of the loop received has the time of the turn as its queued moment, exactly.

    Within a turn they come in the order in which the tokenizer was done with them: exact with one tokenizer.
    """
    queued_s = requests["queued_s"]
    rows = np.flatnonzero(requests["status"] == STATUSES.index("ok"))  # what is refused leaves the scheduler as it was
    rows = rows[np.lexsort((requests["tokenized_s"][rows], queued_s[rows]))]
    turns = np.split(rows, np.flatnonzero(np.diff(queued_s[rows])) + 1) if len(rows) else []
    return _Arrivals((queued_s.item(turn[0]), turn.tolist()) for turn in turns)


def _timing(steps: dict[str, Any], step: int) -> StepTiming:
    return StepTiming(
        steps["start_s"].item(step),
        steps["duration_s"].item(step),
        steps["gpu_wait_s"].item(step),
        steps["cpu_schedule_s"].item(step),
        int(steps["padded_sequences"][step]),
        graph=bool(steps["graph"][step] == 1),
    )


def _requests(recorded: RunRecord, workload: Workload, sequences: dict[int, Sequence]) -> dict[str, Any]:
    """The recorded request table with what this replay counted."""
    log = RequestLog(workload.trace)
    for row, sequence in sequences.items():
        log.count(row, sequence.output_tokens, Counts.of(sequence))
        if sequence.finish_reason is not None:
            log.end(row, "ok", sequence.finish_reason)
    columns, rows = log.columns(workload.warmup_s), sorted(sequences)
    counted = ("output_tokens", "cached_tokens", "chunks", "preemptions", "recomputed_tokens", "preempted_s", "status")
    requests = recorded.requests | {name: recorded.requests[name].copy() for name in counted}
    for name in counted:
        requests[name][rows] = columns[name][rows]
    return requests

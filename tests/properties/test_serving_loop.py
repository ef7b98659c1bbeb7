"""The serving loop: whatever arrives, every request is told its end once, and the loop ends when it is asked to."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from runtime.scheduler import Scheduler
from runtime.scheduler.loop import Abort, Arrive, Collect, Deliver, Ended, Launch, Message, Receive, Stop, serve
from tests.core.driver import Scenario
from tests.core.engine import History, ShadowEngine, Ticket
from tests.core.scenarios import scenarios


class World:
    """Answers the loop: messages by the scenario's ticks, a tick for each look at the mailbox."""

    def __init__(self, scenario: Scenario, scheduler: Scheduler) -> None:
        self.scenario = scenario
        self.engine = ShadowEngine(scheduler)
        self.ends: Counter[int] = Counter()
        self.tokens: dict[int, list[int]] = {}
        self.looks = 0
        self.mail: dict[int, list[Message]] = {}
        for request_id, asked in enumerate(scenario.asked):
            if asked.fits(scenario.config):
                self.engine.histories[request_id] = History(asked.prompt, asked.foretold)
            self.mail.setdefault(asked.tick, []).append(Arrive(asked.sequence(request_id)))
        for abort in scenario.aborts:
            self.mail.setdefault(abort.tick, []).append(Abort(abort.request_id))
        self.last = max(self.mail) + 1
        self.mail[self.last] = [Stop()]

    def answer(self, effect: object) -> Any:
        if isinstance(effect, Receive):
            return self._receive(effect.wait)
        if isinstance(effect, Launch):
            return self.engine.launch(effect.batch)
        if isinstance(effect, Collect):
            assert isinstance(effect.ticket, Ticket)
            tokens = self.engine.execute(effect.ticket)
            return None if self.scenario.foretold_only else tokens
        if isinstance(effect, Deliver):
            outputs = effect.outputs
            for sequence, token in zip(outputs.sequences, outputs.tokens or [], strict=False):
                self.tokens.setdefault(sequence.request_id, []).append(token)
            self.ends.update(sequence.request_id for sequence in outputs.finished)
        elif isinstance(effect, Ended):
            self.ends[effect.sequence.request_id] += 1
        return None

    def _receive(self, wait: bool) -> tuple[float, list[Message]]:
        if wait:  # nothing happens before the next message: there has to be one
            self.looks = min(tick for tick in self.mail if tick >= self.looks)
        now, self.looks = self.looks, self.looks + 1
        return now / 10, self.mail.pop(now, [])


@given(scenarios(), st.booleans())
def test_every_request_ends_once_and_the_loop_ends(scenario: Scenario, overlap: bool) -> None:
    scheduler = scenario.scheduler()
    world = World(scenario, scheduler)
    loop = serve(scheduler, overlap=overlap)
    effect, work = next(loop), sum(len(asked.prompt) + abs(asked.max_tokens) for asked in scenario.asked)
    try:
        while True:
            assert world.looks < world.last + 20 * work + 50
            effect = loop.send(world.answer(effect))
    except StopIteration:
        pass
    assert set(world.ends) == set(range(len(scenario.asked)))
    assert set(world.ends.values()) == {1}
    aborted = {abort.request_id for abort in scenario.aborts}
    if not scenario.foretold_only:
        for request_id in world.engine.histories.keys() - aborted:
            assert world.tokens[request_id] == scenario.asked[request_id].output()

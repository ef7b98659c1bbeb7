"""Many decode steps at once, where nothing is to be decided: what makes simulating fast."""

from __future__ import annotations

import numpy as np

from runtime.scheduler.batch import Ahead, Batch, DecodeRun
from runtime.scheduler.scheduler import Scheduler
from runtime.scheduler.sequence import Sequence

LONGEST_LEAP = 512  # steps; a longer stretch is cut short by the next arrival more often than not


class LeapingScheduler(Scheduler):
    """A scheduler that can run decode steps as one, with the state that planning and committing one by one would leave.

    :meth:`look_ahead` plans the first of them; then the step in flight is committed, if there is one; then :meth:`leap`
    does the rest.
    """

    def look_ahead(self, now: float, in_flight: Batch | None) -> Ahead | None:
        """Plan a step, if it is the first of several that are the same, were nothing to arrive.

        In each of them every decoding sequence gets a token, none ends, no one is admitted and KV does not run out.

        Args:
            now: Seconds.
            in_flight: The last batch scheduled, where it is not committed; all before it are.

        Returns:
            The steps, at least two; or None, and nothing has changed, where the next is to be planned on its own.
        """
        if (
            self._prefilling
            or self._leaving
            or self._preempted
            or not self._decoding
            or not (self._settled if self._waiting else self.policy.batching.steady)
        ):
            return None
        decodes = self._all_decodes(now)
        if in_flight is not None:
            ends = len(decodes) != len(self._decoding)
            if self._waiting and (in_flight.chunks or ends):
                return None  # what it computed, or who ends with it, may let someone in
            if ends and self.memory.shared_tokens(self.available_pages):
                return None  # with whoever ends the next step reads less again
        # The step after which the first of them ends is planned, and committed, on its own.
        steps = min([s.end_tokens - s.total + s.prompt_tokens for s in decodes], default=0) - (in_flight is None)
        steps = min(steps, LONGEST_LEAP)
        available = self.memory.available_pages
        while steps > 1 and self._at_most(decodes, steps) > available:
            steps //= 2
        if steps < 2:
            return None
        self.policy.eviction.tick(now)
        self._settled, self._starved = True, False  # as planning would leave it
        page_size = self.config.page_size
        growing = [s for s in decodes if s.computed == s.held_pages * page_size]
        if growing:
            self.memory.obtain(len(growing))
            self.memory.grow(growing)
        snapshot = self._snapshot()
        return Ahead(decodes, steps, in_flight is not None, snapshot, self._shared_tokens(snapshot))

    def leap(self, ahead: Ahead, steps: int) -> DecodeRun:
        """Plan the others of the first ``steps`` steps ahead, and commit all but the last if one is to be in flight.

        Args:
            ahead: What :meth:`look_ahead` gave. The step that was in flight then is committed since.
            steps: From 1 to ``ahead.steps``.
        """
        before_rest = self._snapshot()
        page_size = self.config.page_size
        rest = steps - 1
        committed = steps - ahead.in_flight
        self._step += steps
        self._committed += committed
        last = self._step - 1
        # Sequences by the steps behind the first at which they take their first page; then they do every page_size.
        takers = [0] * page_size
        growing, counts, positions = [], [], []
        for sequence in ahead.decodes:
            position = sequence.computed
            taking = sequence.held_pages * page_size - position - 1
            takers[taking] += 1
            if taking < rest:
                growing.append(sequence)
                counts.append((rest - 1 - taking) // page_size + 1)
            sequence.computed = position + steps
            sequence.total += steps
            sequence.output_tokens += committed
            sequence.last_step = last
            positions.append(position + rest)
        if growing:
            self.memory.grow_by(growing, counts)
        self.policy.reservation.stepped(steps)
        new_pages = np.array((takers * -(-rest // page_size))[:rest], np.int32)
        batch = Batch(last, [], ahead.decodes, positions, [], self._snapshot())
        return DecodeRun(batch, steps, ahead.snapshot, before_rest, new_pages)

    def _all_decodes(self, now: float) -> list[Sequence]:
        """All decoding sequences whose next token is to be computed, if the policy lets all of them decode, else none.

        Asked where nothing is to be prefilled.
        """
        ready = [s for s in self._decoding if s.total - s.prompt_tokens < s.max_tokens]
        for plan in self.policy.batching.plan(self, now):
            if plan.decode:
                return ready if not plan.shared or len(ready) <= plan.prefill_tokens else []
        return []

    def _at_most(self, decodes: list[Sequence], steps: int) -> int:
        """Pages that so many steps can take: an upper bound."""
        return len(decodes) * -(-steps // self.config.page_size)

"""Many decode steps at once, where nothing is to be decided: what makes simulating fast."""

from __future__ import annotations

import numpy as np

from runtime.scheduler.batch import Batch, DecodeRun
from runtime.scheduler.scheduler import Scheduler
from runtime.scheduler.sequence import Sequence

LONGEST_LEAP = 512  # steps; a longer stretch is cut short by the next arrival more often than not


class LeapingScheduler(Scheduler):
    """A scheduler that can repeat a decode step, with the state that planning and committing one by one would leave."""

    def quiet_steps(self, batch: Batch) -> int:
        """How many more steps after ``batch`` would be the same, were nothing to arrive.

        Args:
            batch: The last one scheduled; all before it are committed.

        Returns:
            A number of steps in which every decoding sequence gets a token, none ends, no one is admitted and KV does
            not run out. 0 where the next step is to be planned on its own.
        """
        decodes = batch.decodes
        if (
            batch.chunks
            or self._prefilling
            or self._leaving
            or len(decodes) != len(self._decoding)
            or not (self._settled if self._waiting else self.policy.batching.steady)
        ):
            return 0
        launched = 1 if batch.step == self._committed else 0
        # The step after which the first of them ends is planned, and committed, on its own.
        steps = min([s.end_tokens - s.total + s.prompt_tokens for s in decodes]) - launched
        steps = min(steps, LONGEST_LEAP)
        available = self.memory.available_pages
        while steps > 1 and self._at_most(decodes, steps) > available:
            steps //= 2
        return max(steps, 0)

    def leap(self, batch: Batch, steps: int) -> DecodeRun:
        """Plan the next ``steps`` steps like ``batch``, and commit as many: one stays in flight if one is.

        Args:
            batch: The last one scheduled; all before it are committed.
            steps: At most what :meth:`quiet_steps` said.
        """
        before = self._snapshot()
        page_size = self.config.page_size
        decodes = batch.decodes
        # Sequences by the steps from now at which they take their first page; then they do every page_size steps.
        takers = [0] * page_size
        growing, counts, positions = [], [], []
        for sequence in decodes:
            first = sequence.held_pages * page_size - sequence.computed
            takers[first] += 1
            if first < steps:
                growing.append(sequence)
                counts.append((steps - 1 - first) // page_size + 1)
            sequence.computed += steps
            sequence.total += steps
            sequence.output_tokens += steps
            sequence.last_step += steps
            positions.append(sequence.computed - 1)
        self.memory.grow_by(growing, counts)
        self.memory.take_evicted()
        self._step += steps
        self._committed += steps
        self.policy.reservation.stepped(steps)
        new_pages = np.array((takers * -(-steps // page_size))[:steps], np.int32)
        last = Batch(batch.step + steps, [], decodes, positions, [], self._snapshot())
        return DecodeRun(last, steps, new_pages, before)

    def _at_most(self, decodes: list[Sequence], steps: int) -> int:
        """Pages that so many steps can take: an upper bound."""
        return len(decodes) * -(-steps // self.config.page_size)

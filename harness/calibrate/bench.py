"""Steps of a real engine, one rank of it, crafted and timed: no scheduler decides what is in them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from harness.calibrate.places import Place, decoding
from policies import Policy
from runtime.engine.engine import Engine, StepRun
from runtime.engine.place import EnginePlace, LoadedEngine
from runtime.scheduler import Batch, Chunk, Scheduler, SchedulerConfig, Sequence, Snapshot
from runtime.server.config import EngineSpec, imported

_CYCLES_S = 2e9  # of a GPU's clock, at most: a wait is then no shorter than is asked for
_SHADOW = 1.5  # of a launch: how long the GPU is kept busy meanwhile
_BEFORE_S = 0.02  # of the decode in front of a step: what a GPU at its power limit did in this time decides its clocks
_STALE = Snapshot(0, 0, 0, 0, 0, 0)


class StepTimes(NamedTuple):
    """One step measured.

    Attributes:
        run: How the device ran it.
        launch_s: Seconds of the host to launch it.
        collect_s: Seconds from its end on the device to its tokens in the host's hands.
    """

    run: StepRun
    launch_s: float
    collect_s: float


class Bench:
    """One rank's engine, built as a worker builds it.

    Attributes:
        engine: The engine.
        scheduler: Whose page table it reads; idle.

    Args:
        spec: Which engine.
        policy: Of the scheduler.
        place: Where it is.
    """

    def __init__(self, spec: EngineSpec, policy: Policy, place: EnginePlace) -> None:
        loaded: LoadedEngine = imported(spec.factory)(spec.options, place)
        sizes = loaded.scheduler
        self.scheduler = Scheduler(sizes, policy)
        self._table = self.scheduler.memory.table
        self.engine: Engine[Any] = loaded.start(self._table)
        self._on_gpu = spec.options.get("device") == "cuda"
        random = np.random.default_rng(0)
        self._pages = random.permutation(sizes.pages).astype(np.int32)  # a server that ran for a while has no order
        self._tokens = random.integers(0, 256, sizes.max_context + 1).astype(np.int32)
        self._before_s = 0.0  # of the decode in front of a step, once it has been seen
        self._steps = 0

    def run(self, place: Place, before: Place, repeats: int) -> list[StepTimes]:
        """Run a step once more than so many times.

        Args:
            place: The step.
            before: A decode that a GPU runs in front of each of them but the first, see :func:`decode_before`.
            repeats: How many count.

        Returns:
            Of the first, only the launch counts: it is that of a step never run before, as most prefills are; the
            device may have waited for it, or loaded or tuned a kernel.
        """
        return self._after_decodes(place, before, repeats) if self._on_gpu else self._in_flight(place, repeats)

    def in_a_row(self, places: list[Place]) -> list[StepTimes]:
        """Run steps one behind the other, each launched while the one before runs."""
        times: list[StepTimes] = []
        ahead: list[tuple[Any, float]] = []
        for place in places:
            ahead.append(self._launch(self.batch(place)))
            if len(ahead) > 1:
                times.append(self._collect(*ahead.pop(0)))
        return times + [self._collect(*ticket) for ticket in ahead]

    def close(self) -> None:
        """Release the engine."""
        self.engine.close()

    def batch(self, place: Place) -> Batch:
        """A step as the scheduler would plan it, of new objects, its pages in no order, its outputs foretold."""
        page_size = self.scheduler.config.page_size
        sequences, taken, common = [], 0, place.shared // page_size
        for row, tokens in enumerate(place.contexts()):
            count = -(-tokens // page_size)
            self._table[row, :count] = self._pages[taken : taken + count]
            if row > place.prefills:
                self._table[row, :common] = self._table[place.prefills, :common]
            taken += count
            sequence = Sequence(row, tokens, self._tokens, 1, foretold_tokens=1)
            sequence.row = row
            sequences.append(sequence)
        prefills = sequences[: place.prefills]
        decodes = sequences[place.prefills :]
        chunks = [Chunk(sequence, place.prefill_context, place.chunk, place.samples) for sequence in prefills]
        positions = [sequence.prompt_tokens - 1 for sequence in decodes]
        self._steps += 1
        return Batch(self._steps, chunks, decodes, positions, [], _STALE)

    def _launch(self, batch: Batch) -> tuple[Any, float]:
        begun_s = time.perf_counter()
        ticket = self.engine.launch(batch)
        return ticket, time.perf_counter() - begun_s

    def _collect(self, ticket: Any, launch_s: float) -> StepTimes:
        run = self.engine.collect(ticket).run
        if run is None:
            raise AssertionError("a real engine tells how a step ran")
        return StepTimes(run, launch_s, max(time.monotonic() - run.start_s - run.duration_s, 0.0))

    def _in_flight(self, place: Place, repeats: int) -> list[StepTimes]:
        """Each launched while the one before runs, as with overlap: on a CPU launching takes from what runs."""
        return self.in_a_row([place] * (repeats + 2))[:-1]

    def _after_decodes(self, place: Place, before: Place, repeats: int) -> list[StepTimes]:
        """Each behind a decode, and launched while the GPU runs that: its time is then the device's alone.

        A GPU at its power limit is fast after a pause and slow after prefills (an H100 took 54 to 63 ms for the same
        prefill of 2,488 tokens, by what it had done in the 50 ms before); after a decode it is as a server at work
        finds it. Where the decode does not cover the launch, the GPU waits for the rest, but not for a step that
        takes it longer than the host: that falls behind the host by itself.
        """
        import torch

        times = [self._collect(*self._launch(self.batch(place)))]  # may have loaded a kernel
        running: list[tuple[Any, float]] = []  # the step before, if any: the GPU never idles between
        for _ in range(repeats):
            decode = self._launch(self.batch(before))
            times += [self._collect(*step) for step in running]
            batch = self.batch(place)
            cover_s = _SHADOW * min(one.launch_s for one in times)
            wait_s = cover_s - self._before_s
            if wait_s > 0 and min(one.run.duration_s for one in times) < cover_s:
                torch.cuda._sleep(int(wait_s * _CYCLES_S))  # type: ignore[no-untyped-call]  # noqa: SLF001
            running = [self._launch(batch)]
            self._before_s = self._collect(*decode).run.duration_s
        return times + [self._collect(*step) for step in running]


def decode_before(sizes: SchedulerConfig, seconds: Callable[[Place], float]) -> Place:
    """What a GPU decodes in front of a step that is measured: as much as takes it some 20 ms.

    Args:
        sizes: Of the server.
        seconds: That a step takes, about.

    Returns:
        As many sequences as may run, with the longest contexts for which there is that time, and room.
    """
    batch = min(sizes.max_running, sizes.pages)
    most = min(sizes.max_context, sizes.pages // batch * sizes.page_size)
    chosen, context = decoding(batch, 1), 2
    while context <= most and seconds(decoding(batch, context)) <= _BEFORE_S:
        chosen, context = decoding(batch, context), 2 * context
    return chosen

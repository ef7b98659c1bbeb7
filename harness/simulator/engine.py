"""The modelled engine: when each step of the device begins and ends, and what the host spends around it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.cost.shape import CostModel, StepShape
from harness.metrics.step_log import RunTiming, StepTiming
from runtime.scheduler import LONGEST_LEAP, Batch

FloatArray = npt.NDArray[np.float64]

_COUNT = np.arange(LONGEST_LEAP + 1)


@dataclass(frozen=True, slots=True)
class SchedulerCosts:
    """CPU seconds of the serving loop.

    Attributes:
        schedule_s: To plan a step.
        schedule_sequence_s: For each sequence in it.
        schedule_token_s: For each token it computes.
        commit_s: To commit a step.
        commit_sequence_s: For each token it sampled.
    """

    schedule_s: float = 60e-6
    schedule_sequence_s: float = 1e-6
    schedule_token_s: float = 0.0
    commit_s: float = 30e-6
    commit_sequence_s: float = 2e-6


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """How the engine runs steps.

    Attributes:
        overlap: A step is scheduled and launched while the device runs the one before.
        cuda_graph: Decode steps replay a CUDA graph, padded to the next size for which one was captured.
        max_graph_sequences: The largest batch for which a graph was captured.
    """

    overlap: bool = True
    cuda_graph: bool = True
    max_graph_sequences: int = 256


def graph_sizes(largest: int) -> list[int]:
    """Batch sizes with a captured graph: 1, 2, 4, then multiples of 8 (mini-sglang), up to ``largest``."""
    return sorted({size for size in (1, 2, 4, *range(8, largest + 1, 8), largest) if size <= largest})


@dataclass(frozen=True, slots=True)
class Foresight:
    """Decode steps ahead, were nothing to arrive.

    Attributes:
        timing: Of each.
        device_free_s: (steps,) when each ends.
        host_s: (steps,) when the host has committed a step (the one before, with overlap) and is ready for the next.
    """

    timing: RunTiming
    device_free_s: FloatArray
    host_s: FloatArray


class Shapes:
    """What a cost model is to know of a batch, and whether it replays a CUDA graph.

    Args:
        options: Says for which batch sizes there are graphs.
    """

    def __init__(self, options: EngineOptions) -> None:
        sizes = graph_sizes(options.max_graph_sequences) if options.cuda_graph else []
        # The graph that a batch of n sequences replays, by n; 0 for none.
        self._graphs = [0]
        for size in sizes:
            self._graphs.extend([size] * (size + 1 - len(self._graphs)))

    def __call__(self, batch: Batch) -> tuple[StepShape, bool]:
        decodes, chunks = len(batch.decodes), batch.chunks
        positions = batch.positions
        context = sum(positions) + decodes
        longest = max(positions, default=-1) + 1
        if not chunks:
            rows = self._graphs[decodes] if decodes < len(self._graphs) else 0
            shape = StepShape(
                decode_sequences=decodes,
                decode_rows=rows or decodes,
                decode_context=context,
                decode_max_context=longest,
                sampled=decodes,
            )
            return shape, rows > 0
        tokens = pairs = read = sampled = 0
        for chunk in chunks:
            count = chunk.tokens
            tokens += count
            pairs += count * chunk.start + count * (count + 1) // 2
            read += chunk.start + count
            sampled += chunk.samples
        shape = StepShape(len(chunks), tokens, pairs, read, decodes, decodes, context, longest, sampled + decodes)
        return shape, False


class StepSeconds:
    """Seconds that the device is busy with a step.

    Args:
        cost: The cost model.
        options: Says which steps replay a CUDA graph.
    """

    def __init__(self, cost: CostModel, options: EngineOptions) -> None:
        self._cost = cost
        self._shape = Shapes(options)

    def __call__(self, batch: Batch) -> float:
        shape, graph = self._shape(batch)
        step_s = self._cost.step_s(shape)
        return step_s if graph else max(step_s, self._cost.launch_s(shape, graph))


class ModelledEngine:
    """Plays the engine with a cost model, on two clocks: the host's and the device's.

    Each method has the host's time given and returned, so that it keeps no clock of its own but the moment at which the
    device is free.

    Args:
        cost: Seconds of a step.
        options: Overlap and CUDA graphs.
        costs: CPU seconds of the loop.
    """

    def __init__(self, cost: CostModel, options: EngineOptions, costs: SchedulerCosts) -> None:
        self._cost = cost
        self._costs = costs
        self.overlap = options.overlap
        self._device_free_s = 0.0
        self._shape = Shapes(options)

    def launch(self, batch: Batch, host_s: float) -> tuple[float, StepTiming]:
        """Begin a step.

        Returns:
            When the host has launched it, and the step's timing.
        """
        shape, graph = self._shape(batch)
        sequences = len(batch.chunks) + len(batch.decodes)
        schedule_s = self._schedule_s(sequences, shape)
        launch_s = self._cost.launch_s(shape, graph)
        step_s = self._cost.step_s(shape)
        launched_s = host_s + (schedule_s + launch_s)
        begun_s = self._device_free_s
        start_s = launched_s if launched_s > begun_s else begun_s
        duration_s = step_s if graph or step_s > launch_s else launch_s
        self._device_free_s = start_s + duration_s
        padded = shape.decode_rows if graph else sequences
        timing = StepTiming(start_s, duration_s, start_s - begun_s, schedule_s, padded, graph)
        return launched_s, timing

    def commit(self, sampled: int, end_s: float, host_s: float) -> float:
        """Wait for a step that ends at ``end_s`` and commit it; returns when that is done."""
        return (host_s if host_s > end_s else end_s) + self._commit_s(sampled)

    def foresee(self, batch: Batch, steps: int, host_s: float) -> Foresight:
        """Times of the next ``steps`` steps like ``batch``, the last one launched.

        They are the floats, added in the same order, that :meth:`launch` and :meth:`commit` would give one by one.
        """
        shape, graph = self._shape(batch)
        sequences = len(batch.decodes)
        launch_s = self._cost.launch_s(shape, graph)
        schedule_s = self._schedule_s(sequences, shape)
        plan_s = schedule_s + launch_s
        commit_s = self._commit_s(sequences)
        ahead = _COUNT[1 : steps + 1]
        context = ahead * sequences + shape.decode_context
        longest = ahead + shape.decode_max_context
        duration_s = self._cost.decode_s(sequences, shape.decode_rows, context, longest)
        if not graph:
            duration_s = np.maximum(duration_s, launch_s)
        padded = shape.decode_rows if graph else sequences
        clock = _overlapped if self.overlap else _in_turn
        start_s, end_s, host_after_s = clock(host_s, self._device_free_s, duration_s, plan_s, commit_s)
        wait_s = start_s.copy()
        wait_s[0] -= self._device_free_s
        wait_s[1:] -= end_s[:-1]
        timing = RunTiming(start_s, duration_s, wait_s, schedule_s, padded, graph)
        return Foresight(timing, end_s, host_after_s)

    def repeat(self, foresight: Foresight, steps: int) -> RunTiming:
        """So many of the foreseen steps were run; returns their timing."""
        self._device_free_s = foresight.device_free_s.item(steps - 1)
        timing = foresight.timing
        if steps == len(timing.start_s):
            return timing
        return timing._replace(
            start_s=timing.start_s[:steps],
            duration_s=timing.duration_s[:steps],
            gpu_wait_s=timing.gpu_wait_s[:steps],
        )

    def _schedule_s(self, sequences: int, shape: StepShape) -> float:
        costs, tokens = self._costs, shape.prefill_tokens + shape.decode_sequences
        return costs.schedule_s + costs.schedule_sequence_s * sequences + costs.schedule_token_s * tokens

    def _commit_s(self, sampled: int) -> float:
        return self._costs.commit_s + self._costs.commit_sequence_s * sampled


def _in_turn(
    host_s: float, device_free_s: float, duration_s: FloatArray, plan_s: float, commit_s: float
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Starts, ends and the host's times without overlap: plan, run, commit, plan, run, commit, ..."""
    del device_free_s  # the host waited for it
    clock = np.empty(3 * len(duration_s) + 1)
    clock[0] = host_s
    clock[1::3] = plan_s
    clock[2::3] = duration_s
    clock[3::3] = commit_s
    clock.cumsum(out=clock)
    return clock[1::3], clock[2::3], clock[3::3]


def _overlapped(
    host_s: float, device_free_s: float, duration_s: FloatArray, plan_s: float, commit_s: float
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The same with a step in flight: the host plans the next while the device runs, then waits for it and commits."""
    # A thousandth to spare: the same comparison then comes out of the sums, whatever their rounding.
    if host_s + plan_s <= device_free_s and plan_s + commit_s < 0.999 * duration_s.min():
        ends = np.empty(len(duration_s) + 1)
        ends[0] = device_free_s
        ends[1:] = duration_s
        ends.cumsum(out=ends)
        start_s = ends[:-1]
        return start_s, ends[1:], start_s + commit_s  # the device never waits
    start_s, end_s, host_after_s = (np.empty(len(duration_s)) for _ in range(3))
    for index, duration in enumerate(duration_s.tolist()):
        launched_s = host_s + plan_s
        start = launched_s if launched_s > device_free_s else device_free_s
        host_s = start + commit_s  # the step before has ended: the device was free
        device_free_s = start + duration
        start_s[index], end_s[index], host_after_s[index] = start, device_free_s, host_s
    return start_s, end_s, host_after_s

"""The modelled engine: when each step of the device begins and ends, and what the host spends around it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from harness.cost.clocks import Clocks
from harness.cost.shape import CostModel, StepShape, read_tokens
from harness.metrics.step_log import RunTiming, StepTiming
from runtime.scheduler import Ahead, Batch
from runtime.scheduler.graph_sizes import chunked_size, ladder

FloatArray = npt.NDArray[np.float64]


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
        cuda_graph: Decode steps, and those with chunks of few tokens, replay a CUDA graph, padded to the next size for
            which one was captured.
        max_graph_sequences: The largest batch of decodes for which a graph was captured.
    """

    overlap: bool = True
    cuda_graph: bool = True
    max_graph_sequences: int = 256


@dataclass(slots=True)
class Foresight:
    """Decode steps ahead, were nothing to arrive.

    Attributes:
        timing: Of each.
        device_free_s: (steps,) when each ends.
        host_s: (steps,) when the host has committed a step (the one before, with overlap) and is ready for the next.
        apart_s: Seconds between two of those, at least.
        fallen: (steps,) what is left of the clocks' fall behind each, see :class:`harness.cost.clocks.Clocks`; None
            where nothing is.
    """

    timing: RunTiming
    device_free_s: FloatArray
    host_s: FloatArray
    apart_s: float
    fallen: FloatArray | None


class Shapes:
    """What a cost model is to know of a batch, and whether it replays a CUDA graph.

    Args:
        options: Says for which steps there are graphs.
        shared_saves: The cost model's.
    """

    def __init__(self, options: EngineOptions, shared_saves: float) -> None:
        self._cuda_graph = options.cuda_graph
        self._shared_saves = shared_saves
        sizes = ladder(options.max_graph_sequences) if options.cuda_graph else []
        # The graph that a batch of n sequences replays, by n; 0 for none.
        self._graphs = [0]
        for size in sizes:
            self._graphs.extend([size] * (size + 1 - len(self._graphs)))

    def __call__(self, batch: Batch) -> tuple[StepShape, bool]:
        decodes, chunks = len(batch.decodes), batch.chunks
        positions = batch.positions
        context = sum(positions) + decodes
        longest = max(positions) + 1 if positions else 0
        if not chunks:
            return self.of_decodes(decodes, context, longest, batch.shared_tokens)
        if batch.shared_tokens:
            context = read_tokens(context, batch.shared_tokens, self._shared_saves)
        tokens = pairs = read = sampled = longest_chunk = 0
        for chunk in chunks:
            count = chunk.tokens
            end = chunk.start + count
            tokens += count
            pairs += count * chunk.start + count * (count + 1) // 2
            read += end
            sampled += chunk.samples
            longest_chunk = max(longest_chunk, end)
        size = chunked_size(len(chunks), tokens, longest_chunk, decodes) if self._cuda_graph else 0
        rows = size - tokens if size else decodes
        sampled += decodes
        shape = StepShape(len(chunks), tokens, pairs, read, decodes, rows, context, longest, sampled, longest_chunk)
        return shape, size > 0

    def of_decodes(self, decodes: int, context: int, longest: int, shared: int) -> tuple[StepShape, bool]:
        """The same of a step that only decodes.

        Args:
            decodes: How many sequences.
            context: Tokens that they read, together,
            longest: and that the longest of them reads.
            shared: Of the former, those that another reads too; see :class:`runtime.scheduler.Batch`.
        """
        if shared:
            context = read_tokens(context, shared, self._shared_saves)
        rows = self._graphs[decodes] if decodes < len(self._graphs) else 0
        return StepShape(0, 0, 0, 0, decodes, rows or decodes, context, longest, decodes), rows > 0


class StepSeconds:
    """Seconds that the device is busy with steps, in the order in which it runs them.

    Args:
        cost: The cost model.
    """

    def __init__(self, cost: CostModel) -> None:
        self._cost = cost
        self._clocks = None if cost.power_limit is None else Clocks(cost.power_limit)

    def step_s(self, shape: StepShape, start_s: float) -> float:
        """Seconds of the next step, which starts then, were all of it enqueued."""
        seconds = self._cost.step_s(shape)
        return seconds if self._clocks is None else self._clocks.step_s(shape.prefill_tokens, seconds, start_s)

    def busy_s(self, shape: StepShape, graph: bool, start_s: float) -> float:
        """Seconds from its first kernel to its last: eagerly launched, they come no faster than they are sent."""
        _, lead_s = self._cost.launch_s(shape, graph)
        return max(self.step_s(shape, start_s), lead_s)

    def foreseen_s(self, shape: StepShape, steps: int) -> tuple[FloatArray, FloatArray | None]:
        """:meth:`step_s` of decodes one behind the other, bit for bit; but they are not run yet.

        Args:
            shape: Of the first; the sequences of each have a token more than in the one before.
            steps: How many.

        Returns:
            (steps,) seconds, and what :meth:`repeat` takes: see :meth:`harness.cost.clocks.Clocks.decodes_s`.
        """
        sequences, context, longest = shape.decode_sequences, shape.decode_context, shape.decode_max_context
        seconds = self._cost.decode_s(
            sequences,
            shape.decode_rows,
            np.arange(context, context + steps * sequences, sequences),
            np.arange(longest, longest + steps),
        )
        return (seconds, None) if self._clocks is None else self._clocks.decodes_s(seconds)

    def repeat(self, fallen: FloatArray | None, steps: int) -> None:
        """So many of the foreseen steps were run."""
        if self._clocks is not None and fallen is not None:
            self._clocks.passed(fallen.item(steps - 1))


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
        self._seconds = StepSeconds(cost)
        self._costs = costs
        self.overlap = options.overlap
        self._device_free_s = 0.0
        self._shape = Shapes(options, cost.shared_saves)

    def launch(self, batch: Batch, host_s: float) -> tuple[float, StepTiming]:
        """Begin a step.

        Returns:
            When the host has launched it, and the step's timing.
        """
        shape, graph = self._shape(batch)
        sequences = len(batch.chunks) + len(batch.decodes)
        schedule_s = self._schedule_s(sequences, shape)
        launch_s, lead_s = self._cost.launch_s(shape, graph)
        ready_s = host_s + (schedule_s + launch_s - lead_s)
        free_s = self._device_free_s
        start_s = ready_s if ready_s > free_s else free_s
        step_s = self._seconds.step_s(shape, start_s)
        duration_s = step_s if step_s > lead_s else lead_s
        self._device_free_s = start_s + duration_s
        # A step with chunks is padded by tokens, of no sequence.
        padded = shape.decode_rows if graph and not batch.chunks else sequences
        timing = StepTiming(start_s, duration_s, start_s - free_s, schedule_s, padded, graph)
        return ready_s + lead_s, timing

    def commit(self, sampled: int, end_s: float, host_s: float) -> float:
        """Wait for a step that ends at ``end_s`` and commit it; returns when that is done."""
        return (host_s if host_s > end_s else end_s) + self._commit_s(sampled)

    def foresee(self, ahead: Ahead, committed: Batch | None, host_s: float) -> Foresight:
        """Times of the steps ahead.

        They are the floats, added in the same order, that :meth:`launch` and :meth:`commit` would give one by one.

        Args:
            ahead: Decode steps, the next to be launched.
            committed: The step in flight, if any: it is committed when the first of them is launched.
            host_s: When the host begins to plan the first.
        """
        sequences, steps = len(ahead.decodes), ahead.steps
        lengths = [sequence.computed for sequence in ahead.decodes]
        longest = max(lengths) + 1
        shape, graph = self._shape.of_decodes(sequences, sum(lengths) + sequences, longest, ahead.shared_tokens)
        launch_s, lead_s = self._cost.launch_s(shape, graph)
        schedule_s = self._schedule_s(sequences, shape)
        duration_s, fallen = self._seconds.foreseen_s(shape, steps)
        if lead_s:
            duration_s = np.maximum(duration_s, lead_s)
        shortest_s = float(np.minimum.reduce(duration_s))
        plan_s, commit_s, free_s = schedule_s + launch_s - lead_s, self._commit_s(sequences), self._device_free_s
        if committed is None:
            times = _in_turn(host_s, duration_s, plan_s, commit_s)
        else:
            first_commit_s = self._commit_s(committed.samples)
            times = _overlapped(host_s, free_s, duration_s, shortest_s, plan_s, lead_s, first_commit_s, commit_s)
        start_s, end_s, host_after_s = times
        padded = shape.decode_rows if graph else sequences
        timing = RunTiming(start_s, duration_s, start_s.item(0) - free_s, schedule_s, padded, graph)
        # A step is committed at most lead_s after the one behind it began.
        return Foresight(timing, end_s, host_after_s, shortest_s - lead_s, fallen)

    def repeat(self, foresight: Foresight, steps: int) -> RunTiming:
        """So many of the foreseen steps were run; returns their timing."""
        self._device_free_s = foresight.device_free_s.item(steps - 1)
        self._seconds.repeat(foresight.fallen, steps)
        start_s, duration_s, wait_s, schedule_s, padded, graph = foresight.timing
        return RunTiming(start_s[:steps], duration_s[:steps], wait_s, schedule_s, padded, graph)

    def _schedule_s(self, sequences: int, shape: StepShape) -> float:
        costs, tokens = self._costs, shape.prefill_tokens + shape.decode_sequences
        return costs.schedule_s + costs.schedule_sequence_s * sequences + costs.schedule_token_s * tokens

    def _commit_s(self, sampled: int) -> float:
        return self._costs.commit_s + self._costs.commit_sequence_s * sampled


def _in_turn(
    host_s: float, duration_s: FloatArray, plan_s: float, commit_s: float
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Starts, ends and the host's times without overlap: plan, run, commit, plan, run, commit, ...

    No step ends before it is launched, so that the host's lead plays no part.
    """
    clock = np.empty(3 * len(duration_s) + 1)
    clock[0] = host_s
    clock[1::3] = plan_s
    clock[2::3] = duration_s
    clock[3::3] = commit_s
    clock.cumsum(out=clock)
    return clock[1::3], clock[2::3], clock[3::3]


def _overlapped(
    host_s: float,
    device_free_s: float,
    duration_s: FloatArray,
    shortest_s: float,
    plan_s: float,
    lead_s: float,
    first_commit_s: float,
    commit_s: float,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """The same with a step in flight: the host plans the next while the device runs, then waits for it and commits."""
    steps = len(duration_s)
    # A thousandth to spare: the same comparison then comes out of the sums, whatever their rounding.
    launched_s = host_s + plan_s + lead_s
    most_s = plan_s + lead_s + max(first_commit_s, commit_s)
    if launched_s <= device_free_s and most_s < 0.999 * shortest_s:
        ends = np.empty(steps + 1)
        ends[0] = device_free_s
        ends[1:] = duration_s
        np.add.accumulate(ends, out=ends)
        start_s = ends[:-1]
        host_after_s = start_s + commit_s
        host_after_s[0] = device_free_s + first_commit_s
        return start_s, ends[1:], host_after_s
    start_s, end_s, host_after_s = (np.empty(steps) for _ in range(3))
    next_commit_s = first_commit_s
    for index, duration in enumerate(duration_s.tolist()):
        ready_s = host_s + plan_s
        start = ready_s if ready_s > device_free_s else device_free_s
        launched_s = ready_s + lead_s
        # The host commits the step before, which has ended once the device was free.
        host_s = (launched_s if launched_s > device_free_s else device_free_s) + next_commit_s
        next_commit_s = commit_s
        device_free_s = start + duration
        start_s[index], end_s[index], host_after_s[index] = start, device_free_s, host_s
    return start_s, end_s, host_after_s

"""Where a twin's error comes from: the seconds of steps, the host around them, or other decisions."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.backends.sim import server_model
from harness.config import ExperimentConfig
from harness.cost.profile import Origin, ProfileCost
from harness.cost.shape import CostModel, StepShape
from harness.decisions import Difference, first_difference
from harness.metrics.schema import ended_ok
from harness.metrics.stages import span, stage
from harness.record import RunRecord
from harness.simulator.engine import Shapes, StepSeconds
from harness.simulator.simulation import Simulation
from harness.validate.errors import ValidationError
from harness.validate.recorded import replay_recorded
from harness.validate.recording import Recording
from harness.workload import Workload
from policies import build_policy
from runtime.scheduler import Batch

FloatArray = npt.NDArray[np.float64]

# What a twin models of a request's way; together they are its E2E.
_STAGES = (
    span("to token ids", "send lag", "tokenize"),
    *map(stage, ("to the scheduler", "queue", "prefill", "decode")),
    span("back to the client", "detokenize", "to the client"),
)


@dataclass(frozen=True, slots=True)
class StageError:
    """One part of the requests' way.

    Attributes:
        name: Which.
        real_s: Mean seconds in the real server,
        twin_s: and in its twin.
        share: Their difference over the real mean E2E: these sum up to the error of the mean E2E.
    """

    name: str
    real_s: float
    twin_s: float
    share: float


def stages(real: Recording, twin: Recording) -> list[StageError]:
    """The mean request, stage by stage."""
    ours, theirs = real.run.columns, twin.run.columns
    ok = ended_ok(ours) & ended_ok(theirs) & (ours["warmup"] == 0)
    e2e_s = float(ours["e2e_s"][ok].mean())
    found = []
    for name, start, end in _STAGES:
        real_s, twin_s = (float((table[end] - table[start])[ok].mean()) for table in (ours, theirs))
        found.append(StageError(name, real_s, twin_s, (twin_s - real_s) / e2e_s))
    return found


@dataclass(frozen=True)
class Steps:
    """The real server's steps, and what the cost model says of the same batches.

    Attributes:
        shapes: What was in each.
        graph: (steps,) whether each replayed a CUDA graph.
        real_s: (steps,) seconds that each took.
        predicted_s: (steps,) the same by the cost model.
        difference: Where the core on recorded timing parts from the real decisions, or None.
        origins: Of each, where a measured profile has its seconds from; empty with another cost model.
    """

    shapes: list[StepShape]
    graph: npt.NDArray[np.bool_]
    real_s: FloatArray
    predicted_s: FloatArray
    difference: Difference | None
    origins: list[Origin] = field(default_factory=list)

    def kinds(self) -> dict[str, npt.NDArray[np.bool_]]:
        """Which steps prefill, which only decode, and which do both."""
        found = np.array([shape.kind for shape in self.shapes], np.str_)
        return {kind: found == kind for kind in ("prefill", "mixed", "decode")}


def recorded_steps(real: Recording, twin_config: ExperimentConfig) -> Steps:
    """Replay the core on the real run's timing, and ask the cost model about each step.

    Args:
        real: The real run.
        twin_config: The simulated run's configuration.

    Raises:
        ValidationError: The real run does not tell its timing, or its outputs were not the trace's.
    """
    backend = real.config.backend
    wanted = {"client": "direct", "foretell": True}
    for knob, value in wanted.items():
        if backend.get(knob, value) != value:
            raise ValidationError(
                f"backend.{knob}={backend[knob]} in {real.run.path}: only with client=direct and foretell=true are its "
                "outputs those of the trace"
            )
    server = server_model(twin_config)
    shape_of = Shapes(server.options, server.cost.shared_saves)
    shapes: list[StepShape] = []
    graphs: list[bool] = []

    def observe(batch: Batch) -> None:
        shape, graph = shape_of(batch)
        shapes.append(shape)
        graphs.append(graph)

    replayed = replay_recorded(
        real.record,
        real.workload,
        build_policy(real.config.policy),
        overlap=real.config.engine.overlap,
        vocab_size=server.vocab_size,
        observe=observe,
    )
    cost, seconds = server.cost, StepSeconds(server.cost)
    start_s, real_s = (np.asarray((real.record.steps or {})[name])[: len(shapes)] for name in ("start_s", "duration_s"))
    # Each behind the real steps before it.
    predicted_s = [seconds.busy_s(*step) for step in zip(shapes, graphs, start_s.tolist(), strict=True)]
    difference = first_difference(real.record, replayed)
    origins = [cost.origin(shape) for shape in shapes] if isinstance(cost, ProfileCost) else []
    return Steps(shapes, np.array(graphs, bool), real_s, np.array(predicted_s), difference, origins)


_ALIKE = 8  # recorded steps that tell what one takes: the same one takes some percent more or less by a GPU's clocks
_SAME = 1e-9  # octaves of work between two steps that are the same


class RecordedCost(CostModel):
    """A cost model set right by recorded steps: each step takes what those most alike did, in proportion.

    The nearer a recorded step, the more it counts (Shepard, A two-dimensional interpolation function, 1968); the same
    step takes what was recorded. A simulation by it has little error of the cost model's: what is left is the host's,
    and the decisions'.

    Args:
        cost: The cost model.
        shapes: Recorded steps.
        seconds: (steps,) what each took.
    """

    def __init__(self, cost: CostModel, shapes: list[StepShape], seconds: FloatArray) -> None:
        self._cost = cost
        self.shared_saves = cost.shared_saves
        self._features = np.array([_features(shape) for shape in shapes])
        self._ratios = seconds / np.array([cost.step_s(shape) for shape in shapes])

    def step_s(self, shape: StepShape) -> float:
        return self._cost.step_s(shape) * self._ratio(np.array(_features(shape)))

    def decode_s(
        self, sequences: int, rows: int, context: npt.NDArray[np.int64], longest: npt.NDArray[np.int64]
    ) -> FloatArray:
        ratios = [
            self._ratio(np.array(_features(StepShape(0, 0, 0, 0, sequences, rows, read))))
            for read in np.asarray(context).tolist()
        ]
        return np.asarray(self._cost.decode_s(sequences, rows, context, longest) * np.array(ratios))

    def launch_s(self, shape: StepShape, graph: bool) -> tuple[float, float]:
        """An eager launch took as long as the step that had to wait for it, and no longer than any other step."""
        cpu_s, lead_s = self._cost.launch_s(shape, graph)
        if graph:
            return cpu_s, lead_s
        recorded_s = self.step_s(shape)
        own_s = recorded_s if lead_s >= self._cost.step_s(shape) else min(lead_s, recorded_s)
        return cpu_s - lead_s + own_s, own_s

    def _ratio(self, features: FloatArray) -> float:
        distance = np.abs(self._features - features).sum(axis=1)
        nearest = distance.argsort(kind="stable")[:_ALIKE]
        weight = 1.0 / (distance[nearest] + _SAME)
        return float(weight @ self._ratios[nearest] / weight.sum())


def _features(shape: StepShape) -> list[float]:
    amounts = shape.prefill_tokens, shape.prefill_pairs, shape.decode_sequences, shape.decode_context
    return [float(np.log2(1 + amount)) for amount in amounts]


def simulate_on(steps: Steps, workload: Workload, twin_config: ExperimentConfig) -> RunRecord:
    """The twin's run again, its steps taking what the recorded ones did.

    Args:
        steps: Of the real run.
        workload: What is replayed.
        twin_config: The simulated run's configuration.
    """
    server = server_model(twin_config)
    cost = RecordedCost(server.cost, steps.shapes, steps.real_s)
    server = dataclasses.replace(server, cost=cost, leap=False)
    simulation = Simulation(workload, server, build_policy(twin_config.policy))
    complete = simulation.run(lambda _: True)
    return RunRecord(
        simulation.requests.columns(workload.warmup_s),
        simulation.steps.columns(),
        simulation.steps.decisions(),
        simulation.tokens.gaps(),
        complete=complete,
        server=dataclasses.asdict(server.scheduler),
    )


def shared_steps(real: RunRecord, twin: RunRecord) -> tuple[Difference | None, int]:
    """Where two runs' decisions part, and how many steps they share before."""
    difference = first_difference(real, twin)
    count = len((real.steps or {"start_s": ()})["start_s"])
    return difference, count if difference is None or difference.step is None else difference.step


def as_columns(items: list[Any]) -> dict[str, list[Any]]:
    """A list of one dataclass as columns."""
    return {field.name: [getattr(item, field.name) for item in items] for field in dataclasses.fields(items[0])}

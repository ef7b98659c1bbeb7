"""What a roofline's parameters do to each request's times, from one replay.

Perturbation analysis (Ho and Cao, Perturbation analysis and optimization of queueing networks, 1983): a parameter makes
every step a little longer. A request's first token comes later by what the steps have become longer since the waiting
queue was last empty, and its later tokens by what those from its first to its last step have. Decisions are held, which
two replays with different values never do: their difference is mostly that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.backends.sim import server_model
from harness.cost.build import build_cost
from harness.cost.shape import CostModel, StepShape
from harness.metrics.schema import complete_requests
from harness.simulator.simulation import Simulation
from policies import build_policy

if TYPE_CHECKING:
    import numpy.typing as npt

    from harness.config import ExperimentConfig
    from harness.workload import Workload

    FloatArray = npt.NDArray[np.float64]

METRICS = ("ttft_s", "tpot_s", "e2e_s")


@dataclass(frozen=True)
class Replay:
    """One replay.

    Attributes:
        times: (requests,) seconds by metric, NaN where there is none.
        slopes: (requests, parameters) change of those by metric: for each of the moved configurations, and last for
            each second more that a request takes on its way to the scheduler.
    """

    times: dict[str, FloatArray]
    slopes: dict[str, FloatArray]


def replay(workload: Workload, config: ExperimentConfig, moved: Sequence[ExperimentConfig]) -> Replay:
    """Replay a workload in the simulator, and follow what moved parameters would do.

    Args:
        workload: What to replay.
        config: The server; its cost model is a roofline.
        moved: The same server with one parameter of its hardware or its roofline moved a little in each.
    """
    model = server_model(config)
    recorded = _Recorded(model.cost)
    # Step by step, so that each step that is run is asked for once, in order.
    model = dataclasses.replace(model, cost=recorded, leap=False)
    simulation = Simulation(workload, model, build_policy(config.policy))
    simulation.run(lambda _: True)
    requests = complete_requests(simulation.requests.columns(0.0))
    steps = {name: np.asarray(column, np.float64) for name, column in simulation.steps.columns().items()}

    slopes = np.ones((len(recorded.shapes), len(moved) + 1))
    for column, other in enumerate(moved):
        cost = build_cost(other.model, other.hardware, other.tp, other.cost).cost
        pairs = zip(recorded.shapes, recorded.leads, strict=True)
        slopes[:, column] = [max(cost.step_s(shape), lead_s) for shape, lead_s in pairs] - steps["duration_s"]
    tokens = requests["output_tokens"]
    end_s = steps["start_s"] + steps["duration_s"]
    scheduled = _within(steps["start_s"].searchsorted(_known(requests["scheduled_s"])), end_s)
    first = _within(end_s.searchsorted(_known(requests["first_token_s"]), side="right") - 1, end_s)
    last = _within(end_s.searchsorted(_known(requests["last_token_s"]), side="right") - 1, end_s)
    # The last step before the request's own after whose planning nobody was left waiting: the request came during it.
    empty = np.maximum.accumulate(np.where(steps["waiting"] == 0, np.arange(len(end_s)), 0))
    came = np.minimum(empty[np.maximum(scheduled - 1, 0)], first)
    sums = slopes.cumsum(axis=0)
    to_first = sums[first] - sums[came] + slopes[came] / 2
    after = sums[last] - sums[first]
    to_first[:, -1], after[:, -1] = 1.0, 0.0  # a request that comes later has all its tokens later
    gaps = np.maximum(tokens - 1, 1)[:, None]
    return Replay(
        {metric: np.asarray(requests[metric], np.float64) for metric in METRICS},
        {"ttft_s": to_first, "tpot_s": after / gaps, "e2e_s": to_first + after},
    )


class _Recorded(CostModel):
    """A cost model that writes down the steps it was asked for, and the leads of their launches."""

    def __init__(self, cost: CostModel) -> None:
        self._cost = cost
        self.shared_saves = cost.shared_saves
        self.shapes: list[StepShape] = []
        self.leads: list[float] = []

    def step_s(self, shape: StepShape) -> float:
        self.shapes.append(shape)
        return self._cost.step_s(shape)

    def decode_s(
        self, sequences: int, rows: int, context: npt.NDArray[np.int64], longest: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float64]:
        return self._cost.decode_s(sequences, rows, context, longest)

    def launch_s(self, shape: StepShape, graph: bool) -> tuple[float, float]:
        cpu_s, lead_s = self._cost.launch_s(shape, graph)
        self.leads.append(lead_s)
        return cpu_s, lead_s


def _known(time_s: FloatArray) -> FloatArray:
    """Times, 0 where there is none: what is made of those is not looked at."""
    return np.nan_to_num(np.asarray(time_s, np.float64))


def _within(step: npt.NDArray[np.int64], end_s: FloatArray) -> npt.NDArray[np.int64]:
    """Numbers of steps, of those that there are."""
    return np.clip(step, 0, len(end_s) - 1)

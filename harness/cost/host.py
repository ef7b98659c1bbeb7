"""What the host spends around steps, from its measured stages: fixed, for each sequence, for each token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.cost.nonnegative import nonnegative_least_squares

if TYPE_CHECKING:
    from harness.cost.measured import HostPoint

_ERROR = 0.05  # relative, of a measured stage at least
_WEAK = 0.05  # how strongly a rate is taken for 0 where the points do not tell one from another


@dataclass(frozen=True, slots=True)
class StageCost:
    """CPU seconds of a stage.

    Attributes:
        fixed_s: Each time.
        sequence_s: For each sequence.
        token_s: For each token.
    """

    fixed_s: float
    sequence_s: float
    token_s: float

    def at(self, sequences: int, tokens: int) -> float:
        """Seconds for so many sequences and tokens."""
        return self.fixed_s + self.sequence_s * sequences + self.token_s * tokens


def fit_stage(
    points: Sequence[HostPoint], stage: str, *, overlap: bool | None = None, graph: bool | None = None, by: str = "both"
) -> StageCost | None:
    """The costs of a stage that come closest to what was measured, in relative error; none is below 0.

    Args:
        points: Measured stages.
        stage: Which.
        overlap: Take the points with overlap scheduling, or those without, where there are such.
        graph: Take only the points with CUDA graphs, or those without.
        by: What the cost grows with: ``sequences``, ``tokens`` or ``both``.

    Returns:
        The costs, or None where the stage was not measured.
    """
    chosen = [point for point in points if point.stage == stage and point.seconds > 0]
    if graph is not None:
        chosen = [point for point in chosen if point.graph == graph]
    if overlap is not None:
        chosen = [point for point in chosen if point.overlap == overlap] or chosen
    if not chosen:
        return None
    seconds = np.array([point.seconds for point in chosen])
    counts = np.array([(1.0, point.sequences, point.tokens) for point in chosen])
    counts[:, 1] *= by != "tokens"
    counts[:, 2] *= by != "sequences"
    spread = np.array([point.spread_s / point.repeats**0.5 if point.repeats else 0.0 for point in chosen]) / seconds
    weight = 1.0 / (seconds * np.hypot(spread, _ERROR))
    # In units in which each cost alone makes the typical seconds at the largest count.
    unit = float(np.median(seconds)) / np.maximum(counts.max(axis=0), 1.0)
    solved = unit * nonnegative_least_squares(
        counts * unit * weight[:, None], seconds * weight, np.zeros(3), np.full(3, _WEAK)
    )
    fixed_s, sequence_s, token_s = solved.tolist()
    return StageCost(fixed_s, sequence_s, token_s)


def loop_costs(points: Sequence[HostPoint], overlap: bool) -> dict[str, float]:
    """What was measured of :class:`harness.simulator.engine.SchedulerCosts`, by its names."""
    costs: dict[str, float] = {}
    if schedule := fit_stage(points, "schedule", overlap=overlap):
        costs |= {
            "schedule_s": schedule.fixed_s,
            "schedule_sequence_s": schedule.sequence_s,
            "schedule_token_s": schedule.token_s,
        }
    commit = fit_stage(points, "commit", overlap=overlap, by="sequences")
    collect = fit_stage(points, "collect", overlap=overlap, by="sequences")
    known = [stage for stage in (collect, commit) if stage]
    if known:
        costs |= {
            "commit_s": sum(stage.fixed_s for stage in known),
            "commit_sequence_s": sum(stage.sequence_s for stage in known),
        }
    return costs


def hop_costs(points: Sequence[HostPoint]) -> dict[str, float]:
    """What was measured of :class:`harness.simulator.frontend.HopCosts`, by its names."""
    costs: dict[str, float] = {}
    if hop := fit_stage(points, "hop"):
        costs["hop_s"] = hop.at(1, 1)  # it is measured of one message alone
    for stage in ("receive", "tokenize", "detokenize", "send"):
        if cost := fit_stage(points, stage, by="tokens"):
            costs |= {f"{stage}_s": cost.fixed_s, f"{stage}_token_s": cost.token_s}
    return costs

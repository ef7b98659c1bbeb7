"""How a profile foretells steps that it was not told of, how fast, and how the roofline foretells all that it measured.

``python -m tests.benchmarks.cost_model [PROFILE ...]``.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from harness.calibrate.places import Place, coarse_grid
from harness.cost.cross_validation import cross_validate
from harness.cost.measured import MeasuredProfile, StepPoint
from harness.cost.profile import ProfileCost, roofline_of, transferred
from harness.cost.roofline import Roofline
from harness.cost.shape import CostModel, StepShape
from harness.cost.shipped import SHIPPED, directories, transferable
from runtime.scheduler import SchedulerConfig

_TOLD = (20, 40, 80)
_DRAWS = 5
_MILLION = 1_000_000


def main() -> None:
    """Prints tables for each profile."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("profiles", type=Path, nargs="*", default=[SHIPPED / "h100_qwen3_8b_tp1"], help="directories")
    parser.add_argument("--step-tokens", type=int, default=8192, help="prompt tokens of a step of the server")
    arguments = parser.parse_args()
    console = Console()
    for path in arguments.profiles:
        profile = MeasuredProfile.load(path)
        roofline = roofline_of(profile)
        cost = ProfileCost(profile, roofline)
        console.print(_left_out(cost, path.name))
        console.print(_few(cost, arguments.step_tokens))
        console.print(_elsewhere(profile, roofline))
        columns = _steps(profile)
        begun_s = time.process_time()
        cost.steps_s(columns)
        console.print(
            f"{_MILLION / (time.process_time() - begun_s) / 1e6:.1f} million predictions a second of CPU time"
        )


def _left_out(cost: ProfileCost, title: str) -> Table:
    table = Table("left out", "steps", "median %", "p95 %", title=title)
    checked = cross_validate(cost)
    found = {kind: checked.of(kind) for kind in ("prefill", "decode", "mixed")}
    found |= {"all": checked, "interior": checked.interior, "corners, extrapolated": checked.corners}
    for kind, errors in found.items():
        if len(errors.errors):
            table.add_row(kind, str(len(errors.errors)), f"{100 * errors.median:.1f}", f"{100 * errors.p95:.1f}")
    return table


def _elsewhere(profile: MeasuredProfile, roofline: Roofline) -> Table:
    """What knows of no step measured here: the roofline, and shipped profiles, transferred."""
    table = Table("from", "steps", "median %", "of sizes %", "p95 of sizes %", title="not measured here")
    for kind in ("decode", "prefill", "mixed"):
        _tell(table, f"roofline: {kind}", roofline, [point for point in profile.steps if point.shape.kind == kind])
    _tell(table, "roofline: all", roofline, profile.steps)
    for other in map(MeasuredProfile.load, directories()):
        if other.name != profile.name and transferable(other, profile.model, profile.hardware):
            _tell(table, other.name, ProfileCost(transferred(other, roofline), roofline), profile.steps)
    return table


def _tell(table: Table, name: str, cost: CostModel, points: Sequence[StepPoint]) -> None:
    errors = 100 * np.array([cost.step_s(point.shape) / point.device_s - 1 for point in points])
    sizes = np.abs(errors)
    figures = f"{np.median(errors):+.1f}", f"{np.median(sizes):.1f}", f"{np.quantile(sizes, 0.95):.1f}"
    table.add_row(name, str(len(points)), *figures)


def _few(cost: ProfileCost, step_tokens: int) -> Table:
    """Told of some steps, judged on the others: the first that a calibration measures, or any."""
    profile = cost.profile
    table = Table("told of", "steps", "median %", "p95 %", title=f"of {len(profile.steps)}, judged on the others")
    sizes = SchedulerConfig(profile.pages, profile.page_size, profile.max_running, profile.max_context)
    in_order = _in_order(coarse_grid(sizes, step_tokens, cost.work), profile.steps)
    for count in _TOLD:
        draws = [np.random.default_rng(seed).permutation(len(profile.steps))[:count] for seed in range(_DRAWS)]
        for name, chosen in ((f"any, median of {_DRAWS}", draws), ("the first of a calibration", [in_order[:count]])):
            errors = [_errors(cost, set(one)) for one in chosen if len(one) == count < len(profile.steps)]
            if errors:
                figures = [np.median([np.quantile(each, share) for each in errors]) for share in (0.5, 0.95)]
                table.add_row(name, str(count), *(f"{100 * figure:.1f}" for figure in figures))
    return table


def _errors(cost: ProfileCost, told: set[int]) -> list[float]:
    steps = cost.profile.steps
    known = [point for index, point in enumerate(steps) if index in told]
    taught = ProfileCost(dataclasses.replace(cost.profile, steps=known), cost.roofline)
    others = [point for index, point in enumerate(steps) if index not in told]
    return [abs(taught.step_s(point.shape) / point.device_s - 1.0) for point in others]


def _in_order(grid: Sequence[Place], steps: Sequence[StepPoint]) -> list[int]:
    """Which measured steps the places are, in their order."""
    seen = {_key(point.shape): index for index, point in enumerate(steps)}
    keys = (_key(place.shape(place.decodes)) for place in grid)
    return [seen[key] for key in keys if key in seen]


def _key(shape: StepShape) -> tuple[int, ...]:
    """A step without its padding."""
    prefills = shape.prefill_sequences, shape.prefill_tokens, shape.prefill_context
    return *prefills, shape.decode_sequences, shape.decode_context, shape.decode_max_context, shape.sampled


def _steps(profile: MeasuredProfile) -> dict[str, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """A million steps near the measured ones."""
    chosen = np.random.default_rng(0).integers(0, len(profile.steps), _MILLION)
    names = [field.name for field in dataclasses.fields(StepShape)]
    columns = {name: np.array([getattr(point.shape, name) for point in profile.steps])[chosen] for name in names}
    columns["decode_context"] += chosen % 64
    return columns


if __name__ == "__main__":
    main()

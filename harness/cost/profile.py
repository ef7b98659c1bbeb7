"""A cost model from measured steps: exact where something was measured, a roofline's shape between and beyond."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from harness.cost.additive import Additive, Work, fit_additive
from harness.cost.correction import Cones, Correction
from harness.cost.floor import Floor
from harness.cost.host import fit_stage
from harness.cost.measured import ProfileError
from harness.cost.shape import CostModel, StepShape

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from harness.cost.additive import FloatArray
    from harness.cost.measured import MeasuredProfile, StepPoint
    from harness.cost.roofline import Roofline

Origin = Literal["measured", "interpolated", "extrapolated"]

# Kinds of work in the order of the sums; the last two are what changes from one decode step to the next. What comes
# before a chunk counts apart from it: an engine may well take longer for a short chunk after a prefix than for a longer
# one without.
_KINDS = (
    "rows",
    "sampled",
    "prefill_sequences",
    "prefill_tokens",
    "prefill_pairs",
    "prefill_before",
    "decode_sequences",
    "decode_context",
    "decode_max_context",
)
_LAST = len(_KINDS) - 2
_NORMAL_IQR = 1.349  # interquartile range of a normal distribution, in standard deviations


@dataclass(frozen=True)
class Points:
    """Measured steps as a fit takes them: no two alike.

    Attributes:
        amounts: (points, kinds) of work.
        seconds: (points,) that the device was busy.
        spread: (points,) relative standard error of those.
    """

    amounts: FloatArray
    seconds: FloatArray
    spread: FloatArray

    def without(self, left_out: npt.NDArray[np.bool_]) -> Points:
        """All but some of the points."""
        return Points(self.amounts[~left_out], self.seconds[~left_out], self.spread[~left_out])


class Interpolation:
    """Seconds of a step from measured ones: curves for each kind of work, and corrections around the points.

    Args:
        points: What was measured.
        roofline: Gives the curves their shape where nothing was measured.
    """

    def __init__(self, points: Points, roofline: Roofline) -> None:
        seconds = monotone(points.amounts, points.seconds)
        nothing_s = roofline.step_s(StepShape())
        self._fit = fit_additive(points.amounts, seconds, points.spread, _work(roofline), nothing_s)
        parts = [curve.at_each(column) for curve, column in zip(self._fit.curves, points.amounts.T, strict=True)]
        fitted_s = _sum(self._fit, parts)
        self._correction = Correction(np.column_stack(parts), fitted_s, seconds - fitted_s)
        self._decodes: dict[tuple[int, int, int], tuple[float, Cones]] = {}

    def step_s(self, amounts: Sequence[float]) -> float:
        """Seconds of a step of such amounts of work."""
        parts = [curve.at(amount) for curve, amount in zip(self._fit.curves, amounts, strict=True)]
        fitted_s = self._fit.fixed_s
        for part in parts:
            fitted_s += part
        return fitted_s + self._correction.at(parts, fitted_s)

    def steps_s(self, amounts: Sequence[FloatArray]) -> FloatArray:
        """The same for many steps: (kinds, steps) amounts, (steps,) seconds."""
        parts = [curve.at_each(amount) for curve, amount in zip(self._fit.curves, amounts, strict=True)]
        fitted_s = _sum(self._fit, parts)
        return fitted_s + self._correction.at_each(parts, fitted_s)

    def decode_step_s(self, sequences: int, rows: int, sampled: int, context: int, longest: int) -> float:
        """:meth:`step_s` of a pure decode step."""
        first_s, cones = self._decode(sequences, rows, sampled)
        context_curve, longest_curve = self._fit.curves[_LAST:]
        context_s, longest_s = context_curve.at(context), longest_curve.at(longest)
        return first_s + context_s + longest_s + cones.at((context_s, longest_s))

    def decode_steps_s(self, sequences: int, rows: int, context: FloatArray, longest: FloatArray) -> FloatArray:
        """The same for many that differ in their contexts alone."""
        first_s, cones = self._decode(sequences, rows, sequences)
        context_curve, longest_curve = self._fit.curves[_LAST:]
        context_s, longest_s = context_curve.at_each(context), longest_curve.at_each(longest)
        return first_s + context_s + longest_s + cones.at_each((context_s, longest_s))

    def _decode(self, sequences: int, rows: int, sampled: int) -> tuple[float, Cones]:
        """What all decode steps of such a batch have in common."""
        known = self._decodes.get((sequences, rows, sampled))
        if known is None:
            amounts = (rows, sampled, 0, 0, 0, 0, sequences)
            parts = [curve.at(amount) for curve, amount in zip(self._fit.curves, amounts, strict=False)]
            first_s = self._fit.fixed_s
            for part in parts:
                first_s += part
            known = self._decodes[sequences, rows, sampled] = (first_s, self._correction.reaching(parts))
        return known


class ProfileCost(CostModel):
    """Seconds of a step from a measured profile.

    Exact at measured steps (but those that contradict others: more work, and faster), continuous and monotone in every
    kind of work, beyond the measured range along the roofline, and never below what bytes over bandwidth and
    FLOPs over peak allow.

    Args:
        profile: What was measured.
        roofline: Of the same model, device and dtypes.

    Raises:
        ProfileError: Nothing was measured that could be used.
    """

    def __init__(self, profile: MeasuredProfile, roofline: Roofline) -> None:
        self.profile = profile
        self.roofline = roofline
        self.model, self.hardware = roofline.model, roofline.hardware
        self.weight_dtype, self.kv_dtype = roofline.weight_dtype, roofline.kv_dtype
        self.points = _points(_usable(profile))
        self._interpolation = Interpolation(self.points, roofline)
        self._floor = Floor(roofline.model, roofline.hardware, roofline.tp, self.weight_dtype, self.kv_dtype)
        self._floor_scale = 1.0
        floors_s = np.array([self._floor_s(point.shape) for point in profile.steps])
        self._floor_scale = min(1.0, float((np.array([point.device_s for point in profile.steps]) / floors_s).min()))
        self._measured = {tuple(row) for row in self.points.amounts.tolist()}
        self._ranges = _ranges(self.points.amounts)
        self._launches = {graph: fit_stage(profile.host, "launch", graph=graph) for graph in (False, True)}

    def step_s(self, shape: StepShape) -> float:
        """Seconds that the device is busy with this step."""
        if shape.prefill_sequences:
            seconds = self._interpolation.step_s(_amounts(shape))
        else:
            seconds = self._interpolation.decode_step_s(
                shape.decode_sequences, shape.decode_rows, shape.sampled, shape.decode_context, shape.decode_max_context
            )
        return max(seconds, self._floor_s(shape))

    def decode_s(
        self, sequences: int, rows: int, context: npt.NDArray[np.int64], longest: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float64]:
        tokens = context.astype(np.float64)
        seconds = self._interpolation.decode_steps_s(sequences, rows, tokens, longest.astype(np.float64))
        every = np.full(len(tokens), float(sequences))
        memory_s = self._floor.memory_s(sequences > 0, tokens)
        compute_s = self._floor.compute_s(every, every, tokens)
        return np.asarray(np.maximum(seconds, np.maximum(memory_s, compute_s) * self._floor_scale))

    def steps_s(self, shapes: Mapping[str, npt.NDArray[np.int64]]) -> npt.NDArray[np.float64]:
        """:meth:`step_s` of many steps.

        Args:
            shapes: (steps,) of each field of :class:`StepShape`, by name.

        Returns:
            (steps,) seconds.
        """
        columns = {name: np.asarray(column, np.float64) for name, column in shapes.items()}
        columns["rows"] = columns["prefill_tokens"] + columns["decode_rows"]
        columns["prefill_before"] = columns["prefill_context"] - columns["prefill_tokens"]
        seconds = self._interpolation.steps_s([columns[kind] for kind in _KINDS])
        sampled = columns["sampled"]
        context = columns["decode_context"] + columns["prefill_context"]
        memory_s = np.where(sampled > 0, self._floor.memory_s(True, context), self._floor.memory_s(False, context))
        rows = columns["prefill_tokens"] + columns["decode_sequences"]
        compute_s = self._floor.compute_s(rows, sampled, columns["decode_context"] + columns["prefill_pairs"])
        return np.asarray(np.maximum(seconds, np.maximum(memory_s, compute_s) * self._floor_scale))

    def launch_s(self, shape: StepShape, graph: bool) -> tuple[float, float]:
        """Seconds of CPU time to enqueue the step's kernels, and how long before its end the device begins.

        They are the roofline's where no launch was measured.
        """
        measured, replay = self._launches[graph], self._launches[True]
        sequences = shape.prefill_sequences + shape.decode_sequences
        if measured is None:
            cpu_s, lead_s = self.roofline.launch_s(shape, graph)
        else:
            # An engine without graphs hands over a step as a whole.
            cpu_s, lead_s = measured.at(sequences, shape.prefill_tokens + shape.decode_rows), 0.0
        if not graph and replay is not None:
            # The first kernel waits for the inputs: for what a graph's launch takes as well.
            lead_s = max(0.0, cpu_s - replay.at(sequences, sequences))
        return cpu_s, lead_s

    def origin(self, shape: StepShape) -> Origin:
        """Where a step's seconds come from.

        Interpolated is what lies, in every kind of work, between the least and the most of the measured steps of its
        kind: decode, prefill, or both.
        """
        amounts = _amounts(shape)
        if amounts in self._measured:
            return "measured"
        least_most = self._ranges.get(_phase(amounts))
        if least_most is None:
            return "extrapolated"
        least, most = least_most
        within = all(low <= amount <= high for low, amount, high in zip(least, amounts, most, strict=True))
        return "interpolated" if within else "extrapolated"

    def _floor_s(self, shape: StepShape) -> float:
        memory_s = self._floor.memory_s(shape.sampled > 0, float(shape.decode_context + shape.prefill_context))
        compute_s = self._floor.compute_s(
            float(shape.prefill_tokens + shape.decode_sequences),
            float(shape.sampled),
            float(shape.decode_context + shape.prefill_pairs),
        )
        return max(memory_s, compute_s) * self._floor_scale


def monotone(amounts: FloatArray, seconds: FloatArray) -> FloatArray:
    """The seconds, with those of few points changed so that none with more of every work is faster.

    The points that contradict most others give way: each becomes the nearest that the others allow.

    Args:
        amounts: (points, kinds).
        seconds: (points,).
    """
    no_more = np.ones((len(seconds), len(seconds)), bool)  # [i, j]: i has no more work than j
    for column in amounts.T:
        no_more &= column[:, None] <= column[None, :]
    against = no_more & (seconds[:, None] > seconds[None, :])
    against |= against.T
    kept, given_way = np.ones(len(seconds), bool), []
    contradicted = against.sum(axis=1)
    while contradicted.any():
        worst = int(contradicted.argmax())
        given_way.append(worst)
        kept[worst] = False
        contradicted -= against[worst]
        contradicted[worst] = 0
        against[worst] = against[:, worst] = False
    changed = seconds.copy()
    for point in reversed(given_way):
        least = changed[kept & no_more[:, point]].max(initial=0.0)
        most = changed[kept & no_more[point]].min(initial=np.inf)
        changed[point] = min(max(changed[point], least), most)
        kept[point] = True
    return changed


def transferred(profile: MeasuredProfile, measured_on: Roofline, wanted: Roofline) -> MeasuredProfile:
    """A profile of another device or another ``tp``: each measured step by the ratio of the two rooflines.

    Args:
        profile: What was measured.
        measured_on: The roofline of that.
        wanted: The roofline of what is wanted.
    """
    steps = [
        dataclasses.replace(point, device_s=point.device_s * ratio, spread_s=point.spread_s * ratio)
        for point in profile.steps
        for ratio in [wanted.step_s(point.shape) / measured_on.step_s(point.shape)]
    ]
    return dataclasses.replace(profile, hardware=wanted.hardware, tp=wanted.tp, steps=steps, collectives=())


def _usable(profile: MeasuredProfile) -> list[StepPoint]:
    """The measured steps that tell what the device takes.

    A decode step launched kernel by kernel, where a graph of its size exists, tells of its launches.
    """
    largest = max(profile.graph_sizes, default=0)
    points = [
        point
        for point in profile.steps
        if point.device_s > 0
        and (point.graph or point.shape.prefill_sequences or not 0 < point.shape.decode_rows <= largest)
    ]
    if not points:
        raise ProfileError(
            f"profile {profile.name}: no usable step in it; measure it again: python -m harness calibrate"
        )
    return points


def _points(measured: Sequence[StepPoint]) -> Points:
    """The measured steps, those of the same work as one: the mean, weighted by repeats."""
    together: dict[tuple[int, ...], list[StepPoint]] = {}
    for point in measured:
        together.setdefault(_amounts(point.shape), []).append(point)
    seconds, spread = [], []
    for alike in together.values():
        repeats = sum(max(point.repeats, 1) for point in alike)
        mean_s = sum(point.device_s * max(point.repeats, 1) for point in alike) / repeats
        deviation_s = max(point.spread_s for point in alike) / _NORMAL_IQR
        seconds.append(mean_s)
        spread.append(deviation_s / mean_s / repeats**0.5)
    return Points(np.array(list(together), np.float64), np.array(seconds), np.array(spread))


def _amounts(shape: StepShape) -> tuple[int, ...]:
    """How much of each kind of work."""
    return (
        shape.prefill_tokens + shape.decode_rows,
        shape.sampled,
        shape.prefill_sequences,
        shape.prefill_tokens,
        shape.prefill_pairs,
        shape.prefill_context - shape.prefill_tokens,
        shape.decode_sequences,
        shape.decode_context,
        shape.decode_max_context,
    )


def _work(roofline: Roofline) -> list[Work]:
    """What the roofline gives to each kind of work alone."""
    nothing_s = roofline.step_s(StepShape())
    prefill_s, decode_s = roofline.prefill_attention_s(0, 0, 0), roofline.decode_attention_s(0)

    def rows_s(rows: float) -> float:
        return roofline.step_s(StepShape(decode_rows=int(rows))) - nothing_s

    def sampled_s(rows: float) -> float:
        return roofline.step_s(StepShape(sampled=int(rows))) - nothing_s

    curves: dict[str, Callable[[float], float]] = {
        "rows": rows_s,
        "sampled": sampled_s,
        "prefill_sequences": lambda count: prefill_s if count else 0.0,
        "prefill_tokens": lambda tokens: roofline.prefill_attention_s(int(tokens), 0, int(tokens)) - prefill_s,
        "prefill_pairs": lambda pairs: roofline.prefill_attention_s(0, int(pairs), 0) - prefill_s,
        "prefill_before": lambda context: roofline.prefill_attention_s(0, 0, int(context)) - prefill_s,
        "decode_sequences": lambda count: decode_s if count else 0.0,
        "decode_context": lambda context: roofline.decode_attention_s(int(context)) - decode_s,
        "decode_max_context": lambda _: 0.0,
    }
    return [Work(kind, curves[kind]) for kind in _KINDS]


def _sum(fit: Additive, parts: Sequence[FloatArray]) -> FloatArray:
    """The fitted seconds, added in the order of the kinds."""
    total = np.full(len(parts[0]), fit.fixed_s)
    for part in parts:
        total += part
    return total


def _phase(amounts: Sequence[float]) -> tuple[bool, bool]:
    """Whether a step prefills, and whether it decodes."""
    return amounts[_KINDS.index("prefill_sequences")] > 0, amounts[_KINDS.index("decode_sequences")] > 0


def kind_of(amounts: Sequence[float]) -> str:
    """``prefill``, ``decode`` or ``mixed``, by a step's amounts of work."""
    prefills, decodes = _phase(amounts)
    if not prefills:
        return "decode"
    return "mixed" if decodes else "prefill"


def _ranges(amounts: FloatArray) -> dict[tuple[bool, bool], tuple[list[float], list[float]]]:
    """The least and the most of each kind of work, by phase."""
    phases: dict[tuple[bool, bool], list[list[float]]] = {}
    for row in amounts.tolist():
        phases.setdefault(_phase(row), []).append(row)
    return {
        phase: (
            [min(column) for column in zip(*rows, strict=True)],
            [max(column) for column in zip(*rows, strict=True)],
        )
        for phase, rows in phases.items()
    }

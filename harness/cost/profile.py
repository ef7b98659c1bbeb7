"""A cost model from measured steps: exact where something was measured, a roofline's shape between and beyond."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from harness.cost.additive import Additive, fit_additive
from harness.cost.correction import Cones, Correction
from harness.cost.floor import Floor
from harness.cost.host import fit_stage
from harness.cost.measured import ProfileError
from harness.cost.roofline import Roofline
from harness.cost.shape import CostModel, StepShape
from harness.cost.work import KINDS, StepWork

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from harness.cost.additive import FloatArray
    from harness.cost.measured import MeasuredProfile, StepPoint

Origin = Literal["measured", "interpolated", "extrapolated"]

_FUSED_KV, _DECODE_KV = KINDS.index("fused_kv"), KINDS.index("decode_kv")
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
        work: By which their amounts were counted; gives the curves their shape where nothing was measured.
    """

    def __init__(self, points: Points, work: StepWork) -> None:
        self._work = work
        seconds = monotone(points.amounts, points.seconds)
        self._fit = fit_additive(points.amounts, seconds, points.spread, work.kinds, work.nothing_s)
        parts = [curve.at_each(column) for curve, column in zip(self._fit.curves, points.amounts.T, strict=True)]
        fitted_s = _sum(self._fit, parts)
        self._correction = Correction(np.column_stack(parts), fitted_s, seconds - fitted_s)
        self._decodes: dict[tuple[int, int, int, int], tuple[float, Cones]] = {}

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
        if self._work.fused(rows, context):
            kind, kv = _FUSED_KV, context
        else:
            kind, kv = _DECODE_KV, self._work.decode_kv(sequences, rows, context, longest)
        first_s, cones = self._decode(sequences, rows, sampled, kind)
        kv_s = self._fit.curves[kind].at(kv)
        return first_s + kv_s + cones.at((kv_s,))

    def decode_steps_s(self, sequences: int, rows: int, context: FloatArray, longest: FloatArray) -> FloatArray:
        """The same for many that differ in their contexts alone."""
        fused = self._work.fused(rows, context)
        if fused.all():
            return self._kv_steps_s(sequences, rows, _FUSED_KV, context)
        kv = self._work.decode_kv(sequences, rows, context, longest, np.minimum, np.maximum)
        seconds = self._kv_steps_s(sequences, rows, _DECODE_KV, kv)
        if fused.any():
            seconds[fused] = self._kv_steps_s(sequences, rows, _FUSED_KV, context[fused])
        return seconds

    def _kv_steps_s(self, sequences: int, rows: int, kind: int, kv: FloatArray) -> FloatArray:
        """Seconds of decode steps that read such amounts of one kind of KV."""
        first_s, cones = self._decode(sequences, rows, sequences, kind)
        kv_s = self._fit.curves[kind].at_each(kv)
        return first_s + kv_s + cones.at_each((kv_s,))

    def _decode(self, sequences: int, rows: int, sampled: int, kind: int) -> tuple[float, Cones]:
        """What all decode steps of such a batch have in common, whatever they read of one kind of KV."""
        known = self._decodes.get((sequences, rows, sampled, kind))
        if known is None:
            shape = StepShape(decode_sequences=sequences, decode_rows=rows, sampled=sampled)
            parts = [curve.at(amount) for curve, amount in zip(self._fit.curves, self._work.of(shape), strict=True)]
            first_s = self._fit.fixed_s
            for part in parts:
                first_s += part
            known = self._decodes[sequences, rows, sampled, kind] = (first_s, self._correction.reaching(parts, kind))
        return known


class ProfileCost(CostModel):
    """Seconds of a step from a measured profile.

    Exact at measured steps (but those that contradict others: more work, and faster), continuous and monotone in every
    kind of work among steps that the engine runs alike (decodes, chunks in a CUDA graph, chunks launched one kernel at
    a time), beyond the measured range along the roofline, and never below what bytes over bandwidth and FLOPs over
    peak allow.

    Args:
        profile: What was measured.
        roofline: Of the same model, device and dtypes.

    Raises:
        ProfileError: Nothing was measured that could be used.
    """

    def __init__(self, profile: MeasuredProfile, roofline: Roofline) -> None:
        self.profile = profile
        self.roofline = roofline
        if profile.shared_saves is not None:
            self.shared_saves = profile.shared_saves
        self.power_limit = profile.power_limit
        self.model, self.hardware = roofline.model, roofline.hardware
        self.weight_dtype, self.kv_dtype = roofline.weight_dtype, roofline.kv_dtype
        usable = _usable(profile)
        self.work = _work(profile, roofline)
        self.points = _points(usable, self.work)
        self._interpolation = Interpolation(self.points, self.work)
        self._floor = Floor(roofline.model, roofline.hardware, roofline.tp, self.weight_dtype, self.kv_dtype)
        self._floor_scale = 1.0
        floors_s = np.array([self._floor_s(point.shape) for point in profile.steps])
        self._floor_scale = min(1.0, float((np.array([point.device_s for point in profile.steps]) / floors_s).min()))
        self._measured = {tuple(row) for row in self.points.amounts.tolist()}
        self._ranges = Ranges(self.points.amounts)
        self._launches = {graph: fit_stage(profile.host, "launch", graph=graph) for graph in (False, True)}

    def step_s(self, shape: StepShape) -> float:
        """Seconds that the device is busy with this step."""
        if shape.prefill_sequences:
            seconds = self._interpolation.step_s(self.work.of(shape))
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
        seconds = self._interpolation.steps_s(self.work.of_each(columns))
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
        amounts = self.work.of(shape)
        if amounts in self._measured:
            return "measured"
        return "interpolated" if self._ranges.within(amounts) else "extrapolated"

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


def roofline_of(profile: MeasuredProfile) -> Roofline:
    """The roofline of what was measured."""
    return Roofline(profile.model, profile.hardware, profile.tp, profile.weight_dtype, profile.kv_dtype)


def transferred(profile: MeasuredProfile, wanted: Roofline) -> MeasuredProfile:
    """A profile of another device, ``tp`` or model: each measured step by the ratio of the two rooflines.

    They are taken of the step's work as each device shares it out: a step that waited for one long context on a fast
    memory does so less on a slow one. Another device's power limit is not known.

    Args:
        profile: What was measured.
        wanted: The roofline of what is wanted.
    """
    here, there = (_work(profile, roofline) for roofline in (roofline_of(profile), wanted))
    steps = [
        dataclasses.replace(point, device_s=point.device_s * ratio, spread_s=point.spread_s * ratio)
        for point in profile.steps
        for ratio in [sum(there.roofline_s(point.shape)) / sum(here.roofline_s(point.shape))]
    ]
    model, hardware = wanted.model, wanted.hardware
    limit = profile.power_limit if hardware.name == profile.hardware.name else None
    return dataclasses.replace(
        profile, model=model, hardware=hardware, tp=wanted.tp, steps=steps, collectives=(), power_limit=limit
    )


def _work(profile: MeasuredProfile, roofline: Roofline) -> StepWork:
    """How the engine that was measured shares out the work of a step on some device."""
    captured = any(point.graph and point.shape.prefill_sequences for point in profile.steps)
    return StepWork(roofline, chunk_graphs=captured, fused_kv_bytes=profile.fused_kv_bytes)


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


def _points(measured: Sequence[StepPoint], work: StepWork) -> Points:
    """The measured steps, those of the same work as one: the mean, weighted by repeats."""
    together: dict[tuple[float, ...], list[StepPoint]] = {}
    for point in measured:
        together.setdefault(work.of(point.shape), []).append(point)
    seconds, spread = [], []
    for alike in together.values():
        repeats = sum(max(point.repeats, 1) for point in alike)
        mean_s = sum(point.device_s * max(point.repeats, 1) for point in alike) / repeats
        deviation_s = max(point.spread_s for point in alike) / _NORMAL_IQR
        seconds.append(mean_s)
        spread.append(deviation_s / mean_s / repeats**0.5)
    return Points(np.array(list(together), np.float64), np.array(seconds), np.array(spread))


def _sum(fit: Additive, parts: Sequence[FloatArray]) -> FloatArray:
    """The fitted seconds, added in the order of the kinds."""
    total = np.full(len(parts[0]), fit.fixed_s)
    for part in parts:
        total += part
    return total


def _phase(amounts: Sequence[float]) -> tuple[bool, bool]:
    """Whether a step prefills, and whether it decodes."""
    return amounts[KINDS.index("prefill_sequences")] > 0, amounts[KINDS.index("decode_sequences")] > 0


def kind_of(amounts: Sequence[float]) -> str:
    """``prefill``, ``decode`` or ``mixed``, by a step's amounts of work."""
    prefills, decodes = _phase(amounts)
    if not prefills:
        return "decode"
    return "mixed" if decodes else "prefill"


class Ranges:
    """The least and the most of each kind of work among measured steps: decodes, prefills, and those that do both.

    Args:
        amounts: (points, kinds).
    """

    def __init__(self, amounts: FloatArray) -> None:
        phases: dict[tuple[bool, bool], list[list[float]]] = {}
        for row in amounts.tolist():
            phases.setdefault(_phase(row), []).append(row)
        self._ends = {
            phase: [(min(column), max(column)) for column in zip(*rows, strict=True)] for phase, rows in phases.items()
        }

    def within(self, amounts: Sequence[float]) -> bool:
        """Whether a step has, of every kind of work, neither more nor less than all measured ones of its kind."""
        ends = self._ends.get(_phase(amounts), [])
        return bool(ends) and all(least <= amount <= most for (least, most), amount in zip(ends, amounts, strict=True))

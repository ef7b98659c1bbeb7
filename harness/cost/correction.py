"""What measured points allow of a fit: a step with more work than a point is no faster, one with less no slower.

Interpolation between bounds (Beliakov, Interpolation of Lipschitz functions, 2006): a point that took longer than the
fit says lifts what is around it, one that took less lowers it. Distance is counted in the fit's own seconds, kind of
work by kind of work: towards more work a lift fades by what the fit rises, so that their sum does not fall, and towards
less work at least as fast. It is exact at every point, continuous, and nothing where no point is near.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

_BLOCK = 8192  # steps at once: what they need stays in a cache


class Cone(NamedTuple):
    """A measured point with what the fit leaves of it.

    Attributes:
        residual_s: Measured seconds less fitted ones.
        less: How much of it is gone for each second of less work ...
        more: ... and for each second of more work.
        fitted_s: Fitted seconds.
        parts: (kinds,) seconds that the fit gives to each kind of work.
    """

    residual_s: float
    less: float
    more: float
    fitted_s: float
    parts: tuple[float, ...]


class Cones:
    """The cones that tell something of some steps.

    Args:
        cones: At least those.
        left_s: (cones,) how much of each residual the other kinds of work leave, where all the steps have the same of
            those; all of it by default.
        kinds: Those of which the steps differ; all by default.
    """

    def __init__(
        self, cones: Sequence[Cone], left_s: Sequence[float] | None = None, kinds: slice = slice(None)
    ) -> None:
        together = list(zip(cones, left_s or [abs(cone.residual_s) for cone in cones], strict=True))
        together.sort(key=lambda pair: pair[0].residual_s < 0)
        self._lifting = sum(cone.residual_s > 0 for cone in cones)
        self._cones = [(cone.residual_s > 0, left, cone.less, cone.more, cone.parts[kinds]) for cone, left in together]
        left, less, more = (np.array([cone[index] for cone in self._cones])[:, None] for index in (1, 2, 3))
        self._left_s, self._less, self._more = left, -less, more
        self._parts = [np.array(own)[:, None] for own in zip(*(cone[4] for cone in self._cones), strict=True)]

    def at(self, parts: Sequence[float]) -> float:
        """Seconds to add to a fit that gives so many seconds to each of the other kinds of work."""
        lift = lower = 0.0
        for lifts, left_s, less, more, own_parts in self._cones:
            for part, own in zip(parts, own_parts, strict=True):
                distance = part - own
                left_s -= max(more * distance, -less * distance)
            if lifts:
                lift = max(lift, left_s)
            else:
                lower = max(lower, left_s)
        return lift or -lower

    def at_each(self, parts: Sequence[FloatArray]) -> FloatArray:
        """The same for many steps, bit for bit: (kinds, steps) to (steps,)."""
        steps = len(parts[0])
        result = np.zeros(steps)
        if not self._cones:
            return result
        for begin in range(0, steps, _BLOCK):
            block = slice(begin, begin + _BLOCK)
            left_s = self._left_s
            for part, own in zip(parts, self._parts, strict=True):
                distance = part[block] - own
                left_s = left_s - np.maximum(self._more * distance, self._less * distance)
            lift = left_s[: self._lifting].max(axis=0, initial=0.0)
            lower = left_s[self._lifting :].max(axis=0, initial=0.0)
            result[block] = np.where(lift > 0, lift, -lower)
        return result


class Correction:
    """The cones around all measured points.

    Args:
        parts: (points, kinds) seconds that the fit gives to each kind of work.
        fitted_s: (points,) fitted seconds.
        residual_s: (points,) measured seconds, monotone in every kind of work, less the fitted ones.
    """

    def __init__(self, parts: FloatArray, fitted_s: FloatArray, residual_s: FloatArray) -> None:
        self._cones = [
            Cone(residual, *_slopes(parts, residual_s, point), fitted, tuple(own))
            for point, (residual, fitted, own) in enumerate(
                zip(residual_s.tolist(), fitted_s.tolist(), parts.tolist(), strict=True)
            )
            if residual
        ]
        # A cone reaches from where less work has used it up to where more work has: within that of fitted seconds.
        reach = [
            (cone.fitted_s - abs(cone.residual_s) / cone.less, cone.fitted_s + abs(cone.residual_s) / cone.more)
            for cone in self._cones
        ]
        self._borders = sorted({border for ends in reach for border in ends})
        near = [
            [cone for cone, (least, most) in zip(self._cones, reach, strict=True) if least < (low + high) / 2 < most]
            for low, high in pairwise(self._borders)
        ]
        self._near = [Cones(cones) for cones in ([], *near, [])]

    def at(self, parts: Sequence[float], fitted_s: float) -> float:
        """Seconds to add to a fit.

        Args:
            parts: (kinds,) seconds that the fit gives to each kind of work.
            fitted_s: Their sum, with what is fixed.
        """
        return self._near[bisect_right(self._borders, fitted_s)].at(parts)

    def at_each(self, parts: Sequence[FloatArray], fitted_s: FloatArray) -> FloatArray:
        """The same for many steps, bit for bit.

        Args:
            parts: (kinds, steps).
            fitted_s: (steps,).
        """
        segment = np.searchsorted(self._borders, fitted_s, side="right")
        order = np.argsort(segment, kind="stable")
        ends = np.searchsorted(segment[order], np.arange(len(self._near) + 1))
        sorted_parts = [part[order] for part in parts]
        result = np.zeros(len(fitted_s))
        for cones, begin, end in zip(self._near, ends, ends[1:], strict=False):
            if begin < end:
                result[order[begin:end]] = cones.at_each([part[begin:end] for part in sorted_parts])
        return result

    def reaching(self, parts: Sequence[float], free: int) -> Cones:
        """The cones that tell something of steps whose parts are these, but for one, which may be anything.

        Args:
            parts: (kinds,) seconds that the fit gives to each kind of work.
            free: The kind of which the steps differ; its part is not read.
        """
        cones, left = [], []
        for cone in self._cones:
            left_s = abs(cone.residual_s)
            for kind, (part, own) in enumerate(zip(parts, cone.parts, strict=True)):
                if kind != free:
                    distance = part - own
                    left_s -= max(cone.more * distance, -cone.less * distance)
            if left_s > 0:
                cones.append(cone)
                left.append(left_s)
        return Cones(cones, left, slice(free, free + 1))


def _slopes(parts: FloatArray, residual_s: FloatArray, point: int) -> tuple[float, float]:
    """How fast a point's residual fades, towards less work and more: fast enough to leave every other point its own."""
    residual = residual_s[point]
    free, bound = (parts[point] - parts).clip(0).sum(axis=1), (parts - parts[point]).clip(0).sum(axis=1)
    if residual < 0:
        free, bound = bound, free
    # Towards the side on which the sum would fall it fades as the fit rises: that is never too slow there, for points
    # that are monotone.
    excess = np.sign(residual) * (residual - residual_s) - bound
    steep = max(1.0, float((excess[free > 0] / free[free > 0]).max(initial=0.0)))
    return (steep, 1.0) if residual > 0 else (1.0, steep)

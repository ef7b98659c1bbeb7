"""A step's seconds as a sum of curves, one for each kind of work, that never fall."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from harness.cost.nonnegative import nonnegative_least_squares

FloatArray = npt.NDArray[np.float64]

_KNOTS = 16  # of one curve at most
_FACTOR = 0.2  # how far the factor on a kind's roofline may be from that of all of them, without being held back
_OCTAVE = 0.01  # by how much of the seconds a curve may leave the roofline's shape within a doubling of the work ...
_SHARE = 0.3  # ... and by how much of its own rise there, without being held back
_REWEIGHTED = 3  # times, for points that are far off
_ERROR = 0.01  # of a measured point, as far as the curves are to follow it
_LEAST_RISE = 1e-5  # of the seconds, from knot to knot: more work is slower, be it by ever so little


class Work(NamedTuple):
    """One kind of work.

    Attributes:
        name: What it counts.
        roofline_s: Seconds that a roofline gives to an amount of it, as far as they grow with that amount.
    """

    name: str
    roofline_s: Callable[[float], float]


class Curve:
    """A piecewise linear function from 0 at 0, rising.

    Args:
        knots: (pieces,) where each piece begins; the first at 0, the last without end.
        slopes: (pieces,) of each piece.
    """

    def __init__(self, knots: Sequence[float], slopes: Sequence[float]) -> None:
        offsets = [0.0]
        for index in range(1, len(knots)):
            offsets.append(offsets[-1] + (slopes[index - 1] - slopes[index]) * knots[index])
        self._knots, self._offsets, self._slopes = list(knots), offsets, list(slopes)
        self._arrays = tuple(np.array(values, np.float64) for values in (self._knots, offsets, self._slopes))

    def at(self, amount: float) -> float:
        """The value at one amount of work."""
        piece = bisect_right(self._knots, amount) - 1
        return self._offsets[piece] + self._slopes[piece] * amount

    def at_each(self, amounts: FloatArray) -> FloatArray:
        """The values at many, bit for bit those of :meth:`at`."""
        knots, offsets, slopes = self._arrays
        piece = knots.searchsorted(amounts, side="right") - 1
        return np.asarray(offsets[piece] + slopes[piece] * amounts)


@dataclass(frozen=True)
class Additive:
    """Seconds as a sum of curves.

    Attributes:
        fixed_s: Of a step in which there is nothing.
        curves: One for each kind of work.
    """

    fixed_s: float
    curves: tuple[Curve, ...]


def fit_additive(
    amounts: FloatArray, seconds: FloatArray, spread: FloatArray, work: Sequence[Work], fixed_s: float
) -> Additive:
    """The curves that come closest to measured points, in relative error, where these do not tell: to the roofline.

    Each kind of work first gets a factor on its roofline. The curves may then leave that shape at knots placed on
    measured amounts; beyond the last they go on along it. Points that are far off whatever the curves count less
    (Huber, Robust estimation of a location parameter, 1964).

    Args:
        amounts: (points, kinds) amounts of work.
        seconds: (points,) measured.
        spread: (points,) relative standard error of those seconds.
        work: The kinds, in the order of the columns.
        fixed_s: What the roofline gives to a step in which there is nothing.
    """
    grids = [_knots(column) for column in amounts.T]
    rises = [np.array([kind.roofline_s(knot) for knot in grid]) for kind, grid in zip(work, grids, strict=True)]
    weight = 1.0 / (seconds * np.hypot(spread, _ERROR))
    fixed_factor, *factors = _factors(amounts, seconds, weight, grids, rises, fixed_s)

    typical_s = float(np.median(seconds))
    columns, priors, units = [np.ones(len(seconds))], [fixed_factor * fixed_s], [0.5 * typical_s]
    for column, grid, rise, factor in zip(amounts.T, grids, rises, factors, strict=True):
        for low, high, rise_s in zip(grid, grid[1:], np.diff(rise), strict=False):
            columns.append((column.clip(low, high) - low) / (high - low))
            priors.append(factor * float(rise_s))
            octaves = 1.0 if low == 0 else float(np.log2(high / low))
            units.append(_OCTAVE * octaves * float(seconds[column >= low].min()) + _SHARE * priors[-1])
    solved = _robust(np.column_stack(columns), seconds, weight, np.array(priors), np.array(units))
    curves, taken = [], 1
    for grid, kind, factor in zip(grids, work, factors, strict=True):
        rise = solved[taken : taken + len(grid) - 1]
        taken += len(grid) - 1
        least_s = _LEAST_RISE * typical_s
        pieces = (np.maximum(rise, least_s) / np.diff(grid)).tolist()
        last = max(grid[-1], 1.0)
        beyond = factor * (kind.roofline_s(4 * last) - kind.roofline_s(last)) / (3 * last)
        curves.append(Curve(grid, [*pieces, max(beyond, least_s / last)]))
    return Additive(float(solved[0]), tuple(curves))


def _knots(column: FloatArray) -> list[float]:
    """0, and measured amounts evenly on a logarithmic scale, the largest among them."""
    measured = np.unique(column[column > 0]).tolist()
    if not measured:
        return [0.0]
    closest = (measured[-1] / measured[0]) ** (1.0 / _KNOTS)
    knots = [measured[-1]]
    for amount in reversed(measured[:-1]):
        if amount * closest <= knots[-1]:
            knots.append(amount)
    if knots[-1] != measured[0]:
        knots[-1 if len(knots) > 1 else len(knots) :] = [measured[0]]
    return [0.0, *reversed(knots)]


def _factors(
    amounts: FloatArray,
    seconds: FloatArray,
    weight: FloatArray,
    grids: Sequence[Sequence[float]],
    rises: Sequence[FloatArray],
    fixed_s: float,
) -> list[float]:
    """A factor on what is fixed, then one on each kind's roofline; where the points do not tell, that of all."""
    shapes = [np.interp(column, grid, rise) for column, grid, rise in zip(amounts.T, grids, rises, strict=True)]
    roofline = np.column_stack([np.full(len(seconds), fixed_s), *shapes])
    overall = float(np.median(seconds / roofline.sum(axis=1)))
    alike = np.ones(roofline.shape[1])
    factors: list[float] = (overall * _robust(roofline * overall, seconds, weight, alike, _FACTOR * alike)).tolist()
    return factors


def _robust(
    matrix: FloatArray, seconds: FloatArray, weight: FloatArray, prior: FloatArray, unit: FloatArray
) -> FloatArray:
    """Coefficients of at least 0, near ``prior`` in units of ``unit``, that give ``seconds``."""
    trusted = weight
    for _ in range(_REWEIGHTED):
        solved = unit * nonnegative_least_squares(
            matrix * unit * trusted[:, None], seconds * trusted, prior / unit, np.ones(len(unit))
        )
        error = np.abs(matrix @ solved - seconds) * weight
        usual = max(2 * float(np.median(error)), 1.0)
        trusted = weight * np.sqrt(np.minimum(1.0, usual / np.maximum(error, 1e-12)))
    return solved

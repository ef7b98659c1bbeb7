"""How far a profile's cost model is off at measured steps that it was not told of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.cost.profile import Interpolation, Ranges, kind_of

if TYPE_CHECKING:
    import numpy.typing as npt

    from harness.cost.profile import ProfileCost


@dataclass(frozen=True)
class CrossValidation:
    """Errors of a cost model at measured steps that were left out.

    Attributes:
        errors: (points,) relative, of each of the cost model's points; positive where it was too slow.
        outside: (points,) whether the point is a corner: it had more or less of some work than all of its kind that
            were left in, so that its seconds had to be extrapolated.
        kinds: (points,) ``prefill``, ``decode`` or ``mixed``.
    """

    errors: npt.NDArray[np.float64]
    outside: npt.NDArray[np.bool_]
    kinds: npt.NDArray[np.str_]

    def of(self, kind: str) -> CrossValidation:
        """The same of one kind of steps."""
        return self._where(self.kinds == kind)

    @property
    def corners(self) -> CrossValidation:
        """The same of the points whose seconds had to be extrapolated."""
        return self._where(self.outside)

    @property
    def interior(self) -> CrossValidation:
        """The same of all others."""
        return self._where(~self.outside)

    @property
    def bias(self) -> float:
        """The median of the errors with their signs."""
        return float(np.median(self.errors))

    @property
    def median(self) -> float:
        """The median of the absolute errors."""
        return float(np.median(np.abs(self.errors)))

    @property
    def p95(self) -> float:
        """The 95th percentile of the absolute errors."""
        return float(np.quantile(np.abs(self.errors), 0.95))

    def _where(self, chosen: npt.NDArray[np.bool_]) -> CrossValidation:
        return CrossValidation(self.errors[chosen], self.outside[chosen], self.kinds[chosen])


def cross_validate(cost: ProfileCost, folds: int = 20) -> CrossValidation:
    """Leave out every point once, a fold of them at a time, and predict it from the others.

    Args:
        cost: The cost model.
        folds: How many, or the number of points where that is less: each is then left out alone.
    """
    points = cost.points
    count = len(points.seconds)
    folds = min(folds, count)
    # Neighbours in time fall into different folds.
    fold = np.empty(count, np.int64)
    fold[np.argsort(points.seconds, kind="stable")] = np.arange(count) % folds
    errors, outside = np.zeros(count), np.zeros(count, bool)
    for number in range(folds):
        left_out = fold == number
        known = points.without(left_out)
        if not len(known.seconds):
            continue
        predicted = Interpolation(known, cost.work).steps_s(points.amounts[left_out].T)
        errors[left_out] = predicted / points.seconds[left_out] - 1.0
        ranges = Ranges(known.amounts)
        outside[left_out] = [not ranges.within(row) for row in points.amounts[left_out].tolist()]
    return CrossValidation(errors, outside, np.array([kind_of(row) for row in points.amounts.tolist()]))

"""Values of one metric: their mean, percentiles and 95 % bootstrap intervals, without resampling.

What resampling would converge to has a closed form here, so the intervals cost nothing and have no seed:

- A bootstrap percentile is an order statistic, and the share of the sample that lies below it follows a beta
  distribution around p (Efron and Tibshirani 1993, ch. 13). Its quantiles are taken by a Cornish-Fisher
  expansion and read back from the sample (Woodruff 1952).
- A bootstrap mean is normal but for its skewness (Hall 1992), again by Cornish-Fisher.

Values may carry weights: entry i then stands for ``weight[i]`` equal values that are one observation, so an
interval resamples entries, not values. Intervals say how much chance there is in *these* requests taken as
independent draws; they do not say how a second run on another day would differ.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from harness.metrics.schema import Array

Floats = npt.NDArray[np.float64]

Z95 = 1.959963984540054  # standard normal quantile of 97.5 %


class Sample:
    """Sorted values of one metric; nulls (NaN) are left out.

    Args:
        values: float64 [n].
        weight: int64 [n], how many equal values each stands for; all one if not given.
    """

    def __init__(self, values: Array, weight: Array | None = None) -> None:
        if weight is None:
            self.values: Floats = np.sort(values[~np.isnan(values)])  # [entries]
            self.weight = np.ones(len(self.values), dtype=np.int64)
        else:
            order = np.argsort(values)
            self.values, self.weight = values[order], weight[order]

    @cached_property
    def _below(self) -> npt.NDArray[np.int64]:
        """How many values lie in the entries up to and including each."""
        return np.cumsum(self.weight, dtype=np.int64)

    @property
    def count(self) -> int:
        """How many values there are, weights counted."""
        return int(self._below[-1]) if len(self.values) else 0

    @cached_property
    def mean(self) -> float:
        """Weighted mean."""
        return float(self.values @ self.weight) / self.count

    @property
    def std(self) -> float:
        """Standard deviation of the values (NumPy's default, divisor n)."""
        return float(np.sqrt(np.square(self.values - self.mean) @ self.weight / self.count))

    def quantile(self, p: npt.ArrayLike) -> Floats:
        """Quantiles at shares ``p`` in [0, 1] by NumPy's ``linear``, each value repeated ``weight`` times.

        Equal to ``np.quantile(np.repeat(values, weight), p)``.
        """
        position = (self.count - 1) * np.asarray(p, dtype=np.float64)
        lower = np.floor(position).astype(np.int64)
        upper = np.minimum(lower + 1, self.count - 1)
        low, high = (self.values[np.searchsorted(self._below, rank, side="right")] for rank in (lower, upper))
        share, step = position - lower, high - low
        # from the nearer end, as NumPy does: exact at both
        result: Floats = np.where(share >= 0.5, high - step * (1 - share), low + step * share)
        return result

    def rank_variance(self, p: float) -> float:
        """Variance of the share of values below the p-quantile, when entries are drawn anew."""
        if self.count == len(self.values):
            return p * (1 - p) / self.count
        below = self.values <= self.quantile(p)
        return float(np.square(self.weight * (below - p)).sum()) / self.count**2

    def resampled_quantile(self, p: float, z: npt.ArrayLike) -> Floats:
        """The p-quantile of a bootstrap resample that is ``z`` standard normal deviations out, for each z."""
        z = np.asarray(z, dtype=np.float64)
        variance = self.rank_variance(p)
        share = p + _cornish_fisher(z, variance, (1 - 2 * p) * variance / (3 * p * (1 - p)))
        return self.quantile(np.clip(share, 0, 1))

    def quantile_interval(self, p: float) -> tuple[float, float]:
        """95 % percentile-bootstrap interval of the p-quantile."""
        low, high = self.resampled_quantile(p, [-Z95, Z95])
        return float(low), float(high)

    def mean_interval(self) -> tuple[float, float]:
        """95 % percentile-bootstrap interval of the mean."""
        moved = self.weight * (self.values - self.mean) / self.count
        variance = float(moved @ moved)
        if variance == 0:
            return self.mean, self.mean
        skew = float(np.square(moved) @ moved) / (6 * variance)
        ends = self.mean + _cornish_fisher(np.array([-Z95, Z95]), variance, skew)
        low, high = np.clip(ends, self.values[0], self.values[-1])
        return float(low), float(high)


def _cornish_fisher(z: Floats, variance: float, skew: float) -> Floats:
    """Deviation from the centre at standard normal deviations ``z``, to second order.

    ``skew`` is the third cumulant over six variances. In very small samples it is held to what keeps the
    expansion increasing up to the ends of a 95 % interval.
    """
    deviation = np.sqrt(variance)
    bound = deviation / (2 * Z95)
    result: Floats = deviation * z + np.clip(skew, -bound, bound) * (np.square(z) - 1)
    return result

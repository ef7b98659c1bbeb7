"""How sure a difference between two samples is: 95 % bootstrap intervals, paired where requests are the same.

Requests of one trace are resampled in pairs: what a request has in common in both runs (its length, its
neighbours) cancels, and the interval is the narrower for it. As in :mod:`harness.metrics.sample`, nothing is
resampled: the shares of two samples below their p-quantiles are jointly normal, with the correlation of the
pairs' indicators (Bahadur 1966; Woodruff 1952). Drawing the two shares and reading both quantiles back costs
the same for ten requests and for a million.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from harness.metrics.sample import Z95, Sample

if TYPE_CHECKING:
    from harness.metrics.schema import Array

Interval: TypeAlias = tuple[float, float]
Pairs: TypeAlias = "tuple[Array, Array]"  # int64 [requests] each: row in the first, row in the other

DRAWS = 4000
SEED = 0


def quantile_difference(first: Array, other: Array, pairs: Pairs | None, p: float) -> Interval | None:
    """95 % bootstrap interval of other's p-quantile minus first's.

    Args:
        first: float64 [n], NaN is null.
        other: float64 [m], NaN is null.
        pairs: Rows that are the same request; None if the two were drawn independently.
        p: In (0, 1).

    Returns:
        The interval; None if either has no values.
    """
    a, b = Sample(first), Sample(other)
    if not a.count or not b.count:
        return None
    correlation = 0.0
    if pairs is not None:
        x, y = first[pairs[0]], other[pairs[1]]
        below_a, below_b = x <= a.quantile(p), y <= b.quantile(p)
        covariance = _pair_covariance(below_a[_both(x, y)], below_b[_both(x, y)], a.count, b.count)
        correlation = covariance / np.sqrt(a.rank_variance(p) * b.rank_variance(p))
    return _drawn_difference(a, b, p, float(np.clip(correlation, -1, 1)))


def mean_difference(first: Array, other: Array, pairs: Pairs | None) -> Interval | None:
    """95 % bootstrap interval of other's mean minus first's, in its normal limit.

    Arguments and result are those of :func:`quantile_difference`.
    """
    a, b = (values[~np.isnan(values)] for values in (first, other))
    if not len(a) or not len(b):
        return None
    variance = float(a.var() / len(a) + b.var() / len(b))
    if pairs is not None:
        x, y = first[pairs[0]], other[pairs[1]]
        variance -= 2 * _pair_covariance(x[_both(x, y)], y[_both(x, y)], len(a), len(b))
    half = Z95 * float(np.sqrt(max(variance, 0.0)))
    difference = float(b.mean() - a.mean())
    return difference - half, difference + half


def independent_difference(first: float, first_interval: Interval, other: float, other_interval: Interval) -> Interval:
    """95 % interval of ``other - first`` from an interval of each (MOVER: Zou and Donner 2008).

    For what is known of two runs only by its estimate and interval, and comes from independent draws.
    """
    difference = other - first
    down = math.hypot(first_interval[1] - first, other - other_interval[0])
    up = math.hypot(first - first_interval[0], other_interval[1] - other)
    return difference - down, difference + up


def _both(x: Array, y: Array) -> Array:
    known: Array = ~np.isnan(x) & ~np.isnan(y)
    return known


def _pair_covariance(x: Array, y: Array, n: int, m: int) -> float:
    """Covariance of the means of two samples of n and m values that share the pairs x, y."""
    if not len(x):
        return 0.0
    covariance = float(np.mean(x * 1.0 * y)) - float(np.mean(x)) * float(np.mean(y))
    return covariance * len(x) / (n * m)


def _drawn_difference(a: Sample, b: Sample, p: float, correlation: float) -> Interval:
    z, independent = np.random.default_rng(SEED).standard_normal((2, DRAWS))
    z_other = correlation * z + np.sqrt(1 - correlation**2) * independent
    low, high = np.quantile(b.resampled_quantile(p, z_other) - a.resampled_quantile(p, z), [0.025, 0.975])
    return float(low), float(high)

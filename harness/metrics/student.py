"""The mean of a few independent values and its 95 % interval, by Student's t (Student 1908)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

CONFIDENCE = 0.95
_ENOUGH = 200  # degrees of freedom, from where on the normal distribution differs by less than 1 %


class Estimate(NamedTuple):
    """A mean.

    Attributes:
        mean: Of the values.
        half: Half of its 95 % interval, to add and to subtract; None where one value tells of no spread.
    """

    mean: float
    half: float | None


def estimate(values: Sequence[float]) -> Estimate:
    """The mean of independent values, one or more."""
    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return Estimate(mean, None)
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    return Estimate(mean, t_quantile(n - 1) * math.sqrt(variance / n))


@cache
def t_quantile(freedom: int) -> float:
    """What 95 % of the draws of Student's t stay within, either side of 0.

    Args:
        freedom: Degrees of freedom, from 1.
    """
    freedom = min(freedom, _ENOUGH)
    low, high = 0.0, 16.0  # one degree of freedom has 12.7
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < CONFIDENCE else (low, middle)
    return (low + high) / 2


def _within(t: float, freedom: int) -> float:
    """The share of draws within ``t`` of 0, in closed form (Abramowitz and Stegun 26.7.3 and 26.7.4)."""
    angle = math.atan2(t, math.sqrt(freedom))
    cos2 = math.cos(angle) ** 2
    odd = freedom % 2
    term = total = (math.cos(angle) if freedom > 1 else 0.0) if odd else 1.0
    for k in range(2 + odd, freedom - 1, 2):
        term *= cos2 * (k - 1) / k
        total += term
    return 2 / math.pi * (angle + math.sin(angle) * total) if odd else math.sin(angle) * total

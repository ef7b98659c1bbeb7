"""The mean of a few independent values and its 95 % interval, by Student's t (Student 1908)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

CONFIDENCE = 0.95


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
    from scipy.special import stdtrit  # a quarter of a second, for replicates alone

    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    return Estimate(mean, float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * math.sqrt(variance / n))

"""Stateless random numbers: the same draw for the same names, in every process and backend."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

_MASK = (1 << 64) - 1


def mix(seed: int, *names: int) -> int:
    """64 well mixed bits of integers (the finalizer of SplitMix64: Steele et al., OOPSLA 2014)."""
    state = 0
    for name in (seed, *names):
        state = (state + (name & _MASK) + 0x9E3779B97F4A7C15) & _MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
        state ^= state >> 31
    return state


def mix_arrays(seed: int, *names: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """:func:`mix` of many at once, name by name: (draws,) each, and so the result."""
    state = np.zeros(len(names[0]), np.uint64)
    for name in (np.array([seed & _MASK], np.uint64), *names):
        state += name + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
    return state


def uniform(seed: int, *names: int) -> float:
    """A float in [0, 1)."""
    return (mix(seed, *names) >> 11) * 2.0**-53

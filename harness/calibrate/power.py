"""How a GPU's clocks follow its work: decodes, prefills and decodes again in a row, and what that does to each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from harness.calibrate.places import Place, decoding
from harness.cost.clocks import PowerLimit
from runtime.scheduler import SchedulerConfig

_TOKENS = 2048  # of a prefill, at least: it draws all the power there is
_PREFILL_S = 0.04  # that one takes, at least, where a step has room for so many tokens
_PREFILLS_S, _DECODES_S = 0.2, 0.2  # of all in a row: longer than clocks take to settle
_DECODES = 10
_FEWEST, _MOST = 3, 10  # prefills
_LIGHT = (32, 512)  # sequences and context of the decodes behind them
_SETTLES_S = np.geomspace(0.01, 0.3, 60)
_LEAST = 0.01  # by which prefills slow down at a power limit that is worth to be known of


class Timed(NamedTuple):
    """A step that was run.

    Attributes:
        part: The decodes before, the prefills or the decodes behind: 0, 1, 2.
        start_s: When it began.
        duration_s: Seconds that it took.
    """

    part: int
    start_s: float
    duration_s: float


def in_a_row(
    sizes: SchedulerConfig, step_tokens: int, before: Place, seconds: Callable[[Place], float]
) -> tuple[list[Place], list[Place], list[Place]]:
    """Decodes, prefills, decodes; no prefills where a server of these sizes has no room for them.

    Args:
        sizes: Of the server.
        step_tokens: Prompt tokens that a step may compute.
        before: A decode of some 20 ms.
        seconds: That a step takes, about.
    """
    prefills = [place for place in _prefills(step_tokens) if place.fits(sizes, step_tokens)]
    if not prefills:
        return [], [], []
    prefill = next((place for place in prefills if seconds(place) >= _PREFILL_S), prefills[-1])
    count = min(max(math.ceil(_PREFILLS_S / seconds(prefill)), _FEWEST), _MOST)
    light = decoding(*_LIGHT)
    return (
        [before] * max(1, round(_DECODES_S / max(seconds(before), 1e-3))),
        [prefill] * count,
        [light if light.fits(sizes, step_tokens) else before] * _DECODES,
    )


def _prefills(step_tokens: int) -> Iterator[Place]:
    tokens = _TOKENS
    while tokens <= step_tokens:
        yield Place(1, tokens)
        tokens *= 2


def fit_power_limit(rounds: Sequence[Sequence[Timed]], pause_s: float) -> PowerLimit | None:
    """What explains the seconds of steps in a row best, by least squares.

    Args:
        rounds: Steps in a row, again and again: decodes first, until the clocks are up.
        pause_s: See :class:`harness.cost.clocks.PowerLimit`.

    Returns:
        None where prefills behind each other are as fast as behind decodes, or no rows were run.
    """
    if not rounds:
        return None
    best: tuple[float, float, float, float] | None = None
    for settles_s in _SETTLES_S.tolist():
        felt: dict[int, list[tuple[float, float]]] = {1: [], 2: []}
        for steps in rounds:
            fallen, end_s = 0.0, steps[0].start_s
            for part, start_s, duration_s in steps:
                fallen *= math.exp(min(end_s - start_s, 0.0) / settles_s)
                fades = math.exp(-duration_s / settles_s)
                if part == 1:
                    felt[part].append((fallen * settles_s * (1 - fades), duration_s))
                elif part == 2:  # as Clocks says it of decodes
                    fades = settles_s / (settles_s + duration_s)
                    felt[part].append((fallen * duration_s * fades, duration_s))
                load = float(part == 1)
                fallen, end_s = load + (fallen - load) * fades, start_s + duration_s
        (compute, compute_off), (memory, memory_off) = (_slope(felt[part]) for part in (1, 2))
        if best is None or compute_off + memory_off < best[0]:
            best = compute_off + memory_off, settles_s, compute, memory
    if best is None or best[2] < _LEAST:
        return None
    _, settles_s, compute, memory = best
    compute, memory = (round(min(max(share, 0.0), 1.0), 4) for share in (compute, memory))
    return PowerLimit(round(settles_s, 4), compute, memory, round(pause_s, 4))


def _slope(felt: list[tuple[float, float]]) -> tuple[float, float]:
    """Of seconds over what was felt of the clocks' fall; and how far off a line is, a mean square of shares."""
    x, seconds = np.array(felt).T
    line = np.column_stack((np.ones_like(x), x))
    (fixed_s, slope), *_ = np.linalg.lstsq(line, seconds, rcond=None)
    return float(slope), float(np.mean(((fixed_s + slope * x) / seconds - 1) ** 2))

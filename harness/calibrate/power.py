"""How a GPU's clocks follow its work: decodes and prefills in a row, and what that does to each."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np

from harness.calibrate.places import Place, decoding
from harness.cost.clocks import PowerLimit
from runtime.scheduler import SchedulerConfig

_TOKENS = 2048  # of a prefill, at least: it draws all the power there is
_PREFILL_S = 0.04  # that one takes, at least, where a step has room for so many tokens
_PREFILLS_S, _DECODES_S = 0.2, 0.2  # of all in a row: longer than clocks take to settle
_DECODES = 10
_FEWEST, _MOST = 3, 10  # prefills
_IN_TURN = 4  # prefills, each behind a decode: as steps are measured
_LIGHT = (32, 512)  # sequences and context of the decodes behind them
_SETTLES_S = np.geomspace(0.01, 0.3, 60)
_LEAST = 0.01  # by which prefills slow down at a power limit that is worth to be known of
_MOST_SLOWER = 0.35  # by which they do: from 1,980 MHz an H100's clocks fall to 1,410


Part = Literal["before", "prefill", "behind"]


class Timed(NamedTuple):
    """A step that was run.

    Attributes:
        part: A decode that the clocks rise in, a prefill, or one of the decodes that tell how far they had fallen.
        start_s: When it began.
        duration_s: Seconds that it took.
    """

    part: Part
    start_s: float
    duration_s: float


def in_a_row(
    sizes: SchedulerConfig, step_tokens: int, before: Place, seconds: Callable[[Place], float]
) -> list[tuple[Part, Place]]:
    """Decodes, prefills, decodes, then both in turn; nothing where a server of these sizes has no room for prefills.

    Args:
        sizes: Of the server.
        step_tokens: Prompt tokens that a step may compute.
        before: The decode in front of every step that is measured for the cost model.
        seconds: That a step takes, about.
    """
    prefills = [place for place in _prefills(step_tokens) if place.fits(sizes, step_tokens)]
    if not prefills:
        return []
    chosen = next((place for place in prefills if seconds(place) >= _PREFILL_S), prefills[-1])
    count = min(max(math.ceil(_PREFILLS_S / seconds(chosen)), _FEWEST), _MOST)
    light = decoding(*_LIGHT)
    decode: tuple[Part, Place] = "before", before
    prefill: tuple[Part, Place] = "prefill", chosen
    behind: tuple[Part, Place] = "behind", light if light.fits(sizes, step_tokens) else before
    decodes = max(1, round(_DECODES_S / max(seconds(before), 1e-3)))
    return [decode] * decodes + [prefill] * count + [behind] * _DECODES + [decode, prefill] * _IN_TURN


def _prefills(step_tokens: int) -> Iterator[Place]:
    tokens = _TOKENS
    while tokens <= step_tokens:
        yield Place(1, tokens)
        tokens *= 2


def fit_power_limit(rounds: Sequence[Sequence[Timed]]) -> PowerLimit | None:
    """What explains the seconds of steps in a row best, by least squares.

    Args:
        rounds: Steps in a row, again and again, as :func:`in_a_row` says them.

    Returns:
        None where prefills behind each other are as fast as behind decodes, or no rows were run.
    """
    if not rounds:
        return None
    best: tuple[float, float, float, float] | None = None
    for settles_s in _SETTLES_S.tolist():
        felt: dict[Part, list[tuple[float, float]]] = {"prefill": [], "behind": []}
        for steps in rounds:
            fallen, end_s = 0.0, steps[0].start_s
            for part, start_s, duration_s in steps:
                fallen *= math.exp(min(end_s - start_s, 0.0) / settles_s)
                fades = math.exp(-duration_s / settles_s)
                if part == "prefill":
                    felt[part].append((fallen * settles_s * (1 - fades), duration_s))
                elif part == "behind":  # as Clocks says it of decodes
                    decode_fades = settles_s / (settles_s + duration_s)
                    felt[part].append((fallen * duration_s * decode_fades, duration_s))
                load = float(part == "prefill")
                fallen, end_s = load + (fallen - load) * fades, start_s + duration_s
        (compute, compute_off), (memory, memory_off) = (_slope(found) for found in felt.values())
        if compute <= _MOST_SLOWER and (best is None or compute_off + memory_off < best[0]):
            best = compute_off + memory_off, settles_s, compute, memory
    if best is None or best[2] < _LEAST:
        return None
    _, settles_s, compute, memory = best
    compute, memory = (round(min(max(share, 0.0), 1.0), 4) for share in (compute, memory))
    return PowerLimit(round(settles_s, 4), compute, memory, round(_pause_s(rounds), 4))


def _pause_s(rounds: Sequence[Sequence[Timed]]) -> float:
    """From the end of a prefill to the next, with a decode between."""
    return statistics.median(
        later.start_s - prefill.start_s - prefill.duration_s
        for steps in rounds
        for prefill, between, later in zip(steps, steps[1:], steps[2:], strict=False)
        if (prefill.part, between.part, later.part) == ("prefill", "before", "prefill")
    )


def _slope(felt: list[tuple[float, float]]) -> tuple[float, float]:
    """Of seconds over what was felt of the clocks' fall; and how far off a line is, a mean square of shares."""
    x, seconds = np.array(felt).T
    line = np.column_stack((np.ones_like(x), x))
    (fixed_s, slope), *_ = np.linalg.lstsq(line, seconds, rcond=None)
    return float(slope), float(np.mean(((fixed_s + slope * x) / seconds - 1) ** 2))

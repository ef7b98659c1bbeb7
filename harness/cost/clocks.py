"""A GPU at its power limit: what it did in the moments before decides its clocks, and so how long a step takes.

Prefills draw more power than a GPU is allowed. It runs the first tens of milliseconds of them at full clocks, then
lowers these; after a pause, or decodes, they are up again. A prefill behind others takes up to a fifth of that time
longer than one behind decodes, and a decode just behind a prefill some percent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from harness.cost.additive import FloatArray

_FULL_TOKENS = 1024  # prompt tokens of a step that draws all the power there is; fewer draw in proportion
_GONE = 1e-3  # of the clocks' fall: what is left is not felt


@dataclass(frozen=True, slots=True)
class PowerLimit:
    """How a GPU's clocks follow its work.

    Attributes:
        settles_s: Seconds in which they come nearer to where they settle, to a third of the way.
        compute: By how much longer prefills take at the clocks that prefills settle at than at full ones, a share,
        memory: and decodes.
        pause_s: Seconds of decodes in front of every step that was measured for the cost model.
    """

    settles_s: float
    compute: float
    memory: float
    pause_s: float


class Clocks:
    """How far a GPU's clocks have fallen: 0 are full ones, 1 those at which prefills settle.

    Decodes are no load, and their seconds are as the cost model says, but for what is left of a fall before them.
    Of that less is left behind every decode, whatever lies between.

    Args:
        limit: How they follow.
    """

    def __init__(self, limit: PowerLimit) -> None:
        self._limit = limit
        self._fallen, self._at_s = 0.0, -math.inf  # when the last chunks ended
        self._left = 0.0  # of it, behind the decodes since

    def step_s(self, tokens: int, measured_s: float, start_s: float) -> float:
        """Seconds of the step behind the one before.

        Args:
            tokens: Prompt tokens that it computes; 0 for a decode.
            measured_s: What the cost model says.
            start_s: When it starts.
        """
        return self._chunks_s(tokens, measured_s, start_s) if tokens else self._decode_s(measured_s)

    def _chunks_s(self, tokens: int, measured_s: float, start_s: float) -> float:
        limit, load = self._limit, min(1.0, tokens / _FULL_TOKENS)
        fallen = self._fallen * math.exp(min(self._at_s - start_s, 0.0) / limit.settles_s)
        fades = math.exp(-measured_s / limit.settles_s)
        paused = math.exp(-limit.pause_s / limit.settles_s)
        # Where it was measured, such a step, a pause, and the same step again followed each other.
        measured_fallen = load * (1.0 - fades) * paused / (1.0 - fades * paused)
        slower = limit.memory + (limit.compute - limit.memory) * load
        seconds = measured_s + slower * (fallen - measured_fallen) * limit.settles_s * (1.0 - fades)
        self._fallen = self._left = load + (fallen - load) * math.exp(-seconds / limit.settles_s)
        self._at_s = start_s + seconds
        return seconds

    def _decode_s(self, measured_s: float) -> float:
        left = self._left
        if left < _GONE:
            return measured_s
        # Of 1 / (1 + x) in place of exp(-x) NumPy makes the same number for many steps.
        fades = self._limit.settles_s / (self._limit.settles_s + measured_s)
        self._left = left * fades
        return measured_s + self._limit.memory * left * measured_s * fades

    def decodes_s(self, measured_s: FloatArray) -> tuple[FloatArray, FloatArray | None]:
        """:meth:`step_s` of decodes one behind the other, bit for bit; but they are not run yet.

        Args:
            measured_s: (steps,) what the cost model says.

        Returns:
            (steps,) seconds, and (steps,) what is left behind each, for :meth:`passed`; None where nothing is.
        """
        if self._left < _GONE:
            return measured_s, None
        fades = self._limit.settles_s / (self._limit.settles_s + measured_s)
        left = np.empty(len(measured_s) + 1)
        left[0] = self._left
        left[1:] = fades
        np.multiply.accumulate(left, out=left)
        before = np.where(left[:-1] < _GONE, 0.0, left[:-1])
        return measured_s + self._limit.memory * before * measured_s * fades, left[1:]

    def passed(self, left: float) -> None:
        """Foreseen decodes were run: so much is left behind them."""
        self._left = left

"""Room for a learnt share of the output."""

from __future__ import annotations

from policies.errors import PolicyError
from policies.reservation.base import Reservation
from policies.views import SequenceView


class Ratio(Reservation):
    """Room for a share of the output still to come, learnt from experience (SGLang's ``new_token_ratio``).

    The share starts at ``start``, falls to ``floor`` over ``decay_steps`` decode steps and goes back up to ``start``
    when KV runs out.

    Args:
        start: Share of ``max_tokens`` at first and after a preemption.
        floor: Share at the end.
        decay_steps: Decode steps from start to floor.
        clip_tokens: The most output tokens counted for one sequence.
    """

    def __init__(self, start: float = 0.7, floor: float = 0.1, decay_steps: int = 600, clip_tokens: int = 4096) -> None:
        if not 0.0 <= floor <= start <= 1.0:
            raise PolicyError(
                f"policy.reservation.start={start}, floor={floor}: shares of max_tokens, 0 <= floor <= start <= 1"
            )
        self._start, self._floor, self._clip_tokens = start, floor, clip_tokens
        self._decay = (start - floor) / max(decay_steps, 1)
        self._steps = 0
        self.steady = start == floor

    def tokens(self, sequence: SequenceView) -> int:
        known = max(sequence.total, sequence.prompt_tokens)
        left = sequence.prompt_tokens + sequence.max_tokens - known
        ratio = max(self._start - self._steps * self._decay, self._floor)
        return known + int(min(left, self._clip_tokens) * ratio)

    def stepped(self, steps: int) -> None:
        self._steps += steps

    def preempted(self) -> None:
        self._steps = 0

"""Room for the peak of what running sequences will hold, by the lengths of those that ended."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import deque
from collections.abc import Sequence

from policies.errors import PolicyError
from policies.hashing import uniform
from policies.reservation.base import JointReservation
from policies.views import SequenceView


class PastFuture(JointReservation):
    """Room for the peak ahead (LightLLM's Past-Future scheduler: Gong et al., ASPLOS 2025, arXiv 2507.10150).

    The past: each sequence's output length is drawn from those of the last sequences that ended, among the lengths that
    it has not passed yet. The future: all grow by a token a step and give their pages back at their ends, so that what
    they hold together is greatest at the end of one of them. LightLLM draws anew at every step; here a request keeps
    its quantile, the same in every run and backend, and its length moves with what has ended and how far it has come.
    Pages that several sequences read are counted for each of them.

    Args:
        window: Sequences remembered. Before the first ends, everyone is expected to run to ``max_tokens``.
        seed: Another seed, other quantiles.

    Raises:
        PolicyError: ``window`` is not positive.
    """

    steady = False  # with every step those who run come nearer to their ends than the one who waits

    def __init__(self, window: int = 1000, seed: int = 0) -> None:
        if window < 1:
            raise PolicyError(f"policy.reservation.window={window}: at least 1 sequence to learn from, e.g. 1000")
        self._seed = seed
        self._window = window
        self._recent: deque[int] = deque()  # output tokens, in the order they ended
        self._sorted: list[int] = []  # the same

    def ended(self, sequence: SequenceView) -> None:
        self._recent.append(sequence.output_tokens)
        insort(self._sorted, sequence.output_tokens)
        if len(self._recent) > self._window:
            oldest = self._recent.popleft()
            del self._sorted[bisect_right(self._sorted, oldest) - 1]

    def peak_pages(self, sequences: Sequence[SequenceView], page_size: int) -> int:
        # Steps to the end and tokens known, of the one that ends last first.
        ahead = sorted(((self._steps_left(s), s.total) for s in sequences), reverse=True)
        peak = known = 0
        for count, (steps, total) in enumerate(ahead, 1):
            # When this one ends, those before it still run; the last page of each may be part full.
            known += total
            peak = max(peak, (known + count * (steps + page_size - 1)) // page_size)
        return peak

    def output_tokens(self, sequence: SequenceView) -> int:
        """The length drawn for a sequence's output, longer than what it has produced unless that is its last."""
        produced = sequence.total - sequence.prompt_tokens
        passed = bisect_right(self._sorted, produced)
        longer = len(self._sorted) - passed
        if not longer:
            return sequence.max_tokens
        drawn = self._sorted[passed + int(uniform(self._seed, sequence.request_id) * longer)]
        return min(drawn, sequence.max_tokens)

    def _steps_left(self, sequence: SequenceView) -> int:
        return max(self.output_tokens(sequence) - (sequence.total - sequence.prompt_tokens), 0)

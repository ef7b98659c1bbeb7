"""When each token reached a client that is really there: by request, as they came."""

from __future__ import annotations

from array import array

import numpy as np

from harness.metrics.schema import Gaps


class TokenTimes:
    """Arrival times of tokens, and the gaps between them.

    Tokens that came in one piece have no gap between them that the client could see: it is 0.
    """

    def __init__(self) -> None:
        self._times: dict[int, array[float]] = {}  # row -> seconds, one a token
        self._pooled = array("d")
        self.tokens = 0

    def came(self, row: int, tokens: int, time_s: float) -> None:
        """So many tokens of a request came."""
        times = self._times.get(row)
        if times is None:
            times = self._times[row] = array("d")
        times.extend([time_s] * tokens)
        self.tokens += tokens

    def first_s(self, row: int) -> float:
        """When the first token came, or NaN."""
        times = self._times.get(row)
        return times[0] if times else float("nan")

    def close(self, row: int, pool: bool) -> tuple[float, float, float, float]:
        """No more tokens of a request will come.

        Args:
            row: Whose.
            pool: Whether its gaps count among the pooled ones.

        Returns:
            When the last one came, and median, 99th percentile and maximum of the gaps, seconds; NaN where there is
            none.
        """
        times = np.frombuffer(self._times.pop(row, array("d")))
        nan = float("nan")
        if len(times) < 2:
            return (float(times[-1]) if len(times) else nan, nan, nan, nan)
        gaps = np.diff(times)
        if pool:
            self._pooled.extend(gaps)
        p50_s, p99_s = np.percentile(gaps, (50, 99)).tolist()
        return float(times[-1]), p50_s, p99_s, float(gaps.max())

    def gaps(self) -> Gaps:
        """The pooled gaps of all requests closed with ``pool``."""
        return Gaps(np.array(self._pooled), np.ones(len(self._pooled), np.int64))

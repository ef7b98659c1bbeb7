"""When each token reached a client that is really there: by request, as they came."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from harness.metrics.schema import Gaps


class TokenTimes:
    """Arrival times of tokens, and the gaps between them.

    Tokens that came in one piece have no gap between them that the client could see: it is 0.

    Args:
        keep: Remember the tokens of closed requests, for :meth:`times_s`.
    """

    def __init__(self, *, keep: bool = False) -> None:
        self._times: dict[int, array[float]] = {}  # row -> seconds, one a token
        self._pooled = array("d")
        self._closed: dict[int, array[float]] | None = {} if keep else None
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
        came = self._times.pop(row, array("d"))
        if self._closed is not None:
            self._closed[row] = came
        times = np.frombuffer(came)
        nan = float("nan")
        if len(times) < 2:
            return (float(times[-1]) if len(times) else nan, nan, nan, nan)
        gaps = np.diff(times)
        if pool:
            self._pooled.extend(gaps)
        p50_s, p99_s = np.percentile(gaps, (50, 99)).tolist()
        return float(times[-1]), p50_s, p99_s, float(gaps.max())

    def times_s(self) -> Iterator[tuple[int, npt.NDArray[np.float64]]]:
        """Row, and when each of its tokens came: of closed requests, then of those under way.

        Raises:
            ValueError: They were not kept.
        """
        if self._closed is None:
            raise ValueError("token times were not kept")
        for row, came in (*self._closed.items(), *self._times.items()):
            yield row, np.frombuffer(came)

    def gaps(self) -> Gaps:
        """The pooled gaps of all requests closed with ``pool``."""
        return Gaps(np.array(self._pooled), np.ones(len(self._pooled), np.int64))

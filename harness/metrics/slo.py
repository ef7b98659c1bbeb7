"""Service level objectives: limits on one request's latencies, and which requests met them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.metrics.schema import NULL, STATUSES, ended_ok

if TYPE_CHECKING:
    from harness.metrics.schema import Array, Columns

_COLUMN = {"ttft_s": "ttft_s", "tpot_s": "tpot_s", "itl_s": "itl_p99_s", "e2e_s": "e2e_s"}


class SloError(ValueError):
    """An SLO that cannot be: the message names the limit and its value."""


@dataclass(frozen=True, slots=True)
class Slo:
    """Limits that a request must meet to be good; None is no limit.

    Attributes:
        name: What it is called, in tables ``slo_class``.
        ttft_s: Seconds from intended arrival to first token.
        tpot_s: Seconds per output token after the first; a request of one token meets it.
        itl_s: Seconds that 99 % of the request's gaps between tokens may last; likewise.
        e2e_s: Seconds from intended arrival to last token.

    Raises:
        SloError: A limit is not a positive number.
    """

    name: str
    ttft_s: float | None = None
    tpot_s: float | None = None
    itl_s: float | None = None
    e2e_s: float | None = None

    def __post_init__(self) -> None:
        for limit in _COLUMN:
            value = getattr(self, limit)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise SloError(f"slo.{limit}={value}: give a positive number of seconds, or null for no limit")

    def __str__(self) -> str:
        """``SLO llama3_8b (TTFT <= 2000 ms, TPOT <= 100 ms)``; one that was set limit by limit has no name."""
        limits = ", ".join(limit_text(limit, value) for limit, value in self.limits.items())
        return f"SLO {limits}" if self.name == "none" else f"SLO {self.name} ({limits})"

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are set, seconds by name."""
        values = {limit: getattr(self, limit) for limit in _COLUMN}
        return {limit: value for limit, value in values.items() if value is not None}


def limit_text(limit: str, value_s: float) -> str:
    """A limit as a person reads it: ``TTFT <= 2000 ms``."""
    return f"{limit.removesuffix('_s').upper()} <= {value_s * 1e3:g} ms"


def was_sent(requests: Columns) -> Array:
    """Which requests the client sent: bool [requests]; all but the unfinished that have no send time."""
    sent: Array = (requests["status"] != STATUSES.index("unfinished")) | ~np.isnan(requests["sent_s"])
    return sent


def met_by_limit(requests: Columns, slo: Slo) -> dict[str, Array]:
    """Which requests met each limit of the SLO that is set: bool [requests] by limit.

    A request that did not end ok meets none. One of a single token has no TPOT and no ITL and is within their
    limits, since nothing was late.

    Args:
        requests: As :func:`harness.metrics.schema.complete_requests` gives them.
        slo: The limits.
    """
    ok = ended_ok(requests)
    single = requests["output_tokens"] < 2
    met = {}
    for limit, value in slo.limits.items():
        latency_s = requests[_COLUMN[limit]]
        within = latency_s <= value  # a NaN is not
        if limit in ("tpot_s", "itl_s"):
            within = within | single
        met[limit] = ok & within
    return met


def hold_to(requests: Columns, slo: Slo) -> dict[str, Array]:
    """The same table with ``slo_class`` and ``slo_met`` filled in; unchanged where the SLO has no limits.

    ``slo_met`` is 1 where every limit was met, 0 where not, null for a request that was never sent.
    """
    if not slo.limits:
        return dict(requests)
    met = np.logical_and.reduce(list(met_by_limit(requests, slo).values()))
    rows = len(met)
    return {
        **requests,
        "slo_class": np.broadcast_to(np.array(slo.name, dtype=np.object_), rows),
        "slo_met": np.where(was_sent(requests), met, NULL).astype(np.int8),
    }

"""Capacity: the highest rate at which enough requests meet the SLO, DistServe's goodput (Zhong et al., OSDI 2024).

Every rate is tried on the same requests with the same seeds, only their arrivals lie closer together: common random
numbers, so that two rates differ by the rate alone and the share that meets the SLO falls almost without noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from harness.config import ConfigError, ExperimentConfig
from harness.metrics import schema
from harness.metrics.sample import Sample
from harness.metrics.slo import Slo, met_by_limit
from harness.sweep.cell import replay

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from harness.metrics.schema import Columns
    from traces.schema import Trace

FIRST_RATE = 1.0  # requests per second, where none is given
FURTHEST = 2.0**12  # from the first rate, either way
BLOCKS = 20  # of requests that arrive one after another, resampled together
DRAWS = 2000
SEED = 0


class ProbeTask(NamedTuple):
    """What a worker is asked: how many of a configuration's requests meet its SLO at a rate, requests per second."""

    config: ExperimentConfig
    rate: float


@dataclass(frozen=True)
class Probe:
    """What came of a rate.

    Attributes:
        rate: Requests per second.
        met: Whether each request met every limit of the SLO: bool [requests], by arrival in the trace.
        by_limit: Share of the requests that met each limit.
        span_s: From the first arrival to the last.
        output_tokens_per_s: Throughput.
        ttft_p99_s: 99th percentile, None where no request ended.
        tpot_p99_s: Likewise.
    """

    rate: float
    met: NDArray[np.bool_]
    by_limit: dict[str, float]
    span_s: float
    output_tokens_per_s: float | None
    ttft_p99_s: float | None
    tpot_p99_s: float | None

    @property
    def attainment(self) -> float:
        """Share of the requests that met the SLO."""
        return float(self.met.mean())

    @property
    def came(self) -> float:
        """Requests per second that came: turns wait for those before them, so that it may be fewer than asked for."""
        return len(self.met) / self.span_s if self.span_s else self.rate


def probe(task: ProbeTask) -> Probe:
    """Replay a trace at a rate.

    Raises:
        ValueError: A knob is wrong.
        KeyboardInterrupt: The replay was interrupted.
    """
    config = replace(task.config, trace=replace(task.config.trace, rate=task.rate))
    trace, record = replay(config)
    if record.failure is not None:
        raise ConfigError(f"trace.rate={task.rate:g}: the server failed: {record.failure}")
    if not record.complete:
        raise KeyboardInterrupt
    return measure(task.rate, schema.complete_requests(record.requests), Slo(**config.slo), trace)


def measure(rate: float, requests: Columns, slo: Slo, trace: Trace) -> Probe:
    """A probe from the request table of a replay; warm-up requests are left out."""
    in_table = np.argsort(requests["request_id"], kind="stable")
    rows = np.empty(len(trace), dtype=np.int64)
    rows[np.argsort(trace.request_id, kind="stable")] = in_table
    measured = schema.select(requests, rows[requests["warmup"][rows] == 0])
    met = met_by_limit(measured, slo)
    ok = schema.select(measured, schema.ended_ok(measured))
    arrival_s = measured["arrival_s"]
    took_s = float(ok["client_last_token_s"].max() - arrival_s.min()) if len(ok["status"]) else 0.0
    return Probe(
        rate=rate,
        met=np.logical_and.reduce(list(met.values())),
        by_limit={limit: float(flags.mean()) for limit, flags in met.items()},
        span_s=float(arrival_s.max() - arrival_s.min()),
        output_tokens_per_s=float(ok["output_tokens"].sum()) / took_s if took_s else None,
        ttft_p99_s=_p99(ok["ttft_s"]),
        tpot_p99_s=_p99(ok["tpot_s"]),
    )


@dataclass
class Search:
    """Finds the highest rate that meets the SLO: doubles or halves until it is bracketed, then bisects its logarithm.

    Attributes:
        target: Share of the requests that must meet the SLO.
        tolerance: The bracket's ends differ by no more than this share when the search ends.
        first_rate: Where it begins, requests per second.
        probes: What has been tried.

    Raises:
        ConfigError: The target or the tolerance cannot be.
    """

    target: float
    tolerance: float
    first_rate: float = FIRST_RATE
    probes: list[Probe] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not 0 < self.target <= 1:
            raise ConfigError(f"--attainment {self.target:g}: a share of the requests, above 0 and up to 1, e.g. 0.9")
        if not 0 < self.tolerance <= 1:
            raise ConfigError(f"--tolerance {self.tolerance:g}: above 0 and up to 1, e.g. 0.02 for 2 %")

    def tell(self, probe: Probe) -> None:
        """Add what came of a rate."""
        self.probes.append(probe)

    def meets(self, probe: Probe) -> bool:
        """Whether enough requests met the SLO."""
        return probe.attainment >= self.target

    @property
    def best(self) -> Probe | None:
        """The highest rate below all that miss the SLO; None where none meets it."""
        missing = self.above
        below = [each for each in self.probes if self.meets(each) and (missing is None or each.rate < missing.rate)]
        return max(below, key=lambda each: each.rate, default=None)

    @property
    def above(self) -> Probe | None:
        """The lowest rate that misses the SLO; None where none does."""
        return min((each for each in self.probes if not self.meets(each)), key=lambda each: each.rate, default=None)

    @property
    def next_rate(self) -> float | None:
        """What to try next, requests per second; None at the end."""
        low, high = self.best, self.above
        if low is not None and high is not None:
            return None if high.rate <= low.rate * (1 + self.tolerance) else float(np.sqrt(low.rate * high.rate))
        if low is not None:
            return 2 * low.rate if low.rate < self.first_rate * FURTHEST else None
        if high is not None:
            return high.rate / 2 if high.rate > self.first_rate / FURTHEST else None
        return self.first_rate

    @property
    def capacity(self) -> float | None:
        """Requests per second at which the share that meets the SLO falls below the target; None where none was found.

        It lies between the best rate and the lowest above it: the share is taken to fall linearly in the logarithm of
        the rate, as for the interval.
        """
        if self.best is None or self.above is None:
            return None
        probes = sorted(self.probes, key=lambda each: each.rate)
        log_rates = np.log([each.rate for each in probes])
        return float(np.exp(crossing(log_rates, np.array([each.attainment for each in probes]), self.target)))

    def interval(self) -> tuple[float, float]:
        """95 % interval of :attr:`capacity` that chance in these requests leaves.

        Blocks of requests that arrive one after another are drawn anew, the same blocks for every rate that was tried,
        because a queue makes neighbours alike (block bootstrap: Künsch 1989). Between two rates the share that meets
        the SLO is taken to fall linearly in the rate's logarithm. How another day would differ is not in it.

        Returns:
            Requests per second; an end that no rate tried reaches is the outermost one.
        """
        probes = sorted(self.probes, key=lambda each: each.rate)
        blocks = np.array_split(np.arange(len(probes[0].met)), min(BLOCKS, len(probes[0].met)))
        met = np.array([[each.met[block].sum() for block in blocks] for each in probes])  # [rates, blocks]
        sizes = np.array([len(block) for block in blocks])
        drawn = np.random.default_rng(SEED).integers(len(blocks), size=(DRAWS, len(blocks)))
        share = met[:, drawn].sum(axis=2) / sizes[drawn].sum(axis=1)  # [rates, draws]
        log_rates = np.log([each.rate for each in probes])
        crossings = [crossing(log_rates, column, self.target) for column in share.T]
        low, high = np.exp(np.quantile(crossings, [0.025, 0.975]))
        found = self.capacity
        if found is None:
            return float(low), float(high)
        return min(float(low), found), max(float(high), found)  # percentiles of a bent estimate need not hold it


def crossing(x: NDArray[np.float64], share: NDArray[np.float64], target: float) -> float:
    """Where a share that falls with x goes below a target, linear between the points; an end where it does not.

    Args:
        x: Increasing [points].
        share: At each [points]; where chance lets it rise, it is held down.
        target: What it must reach.
    """
    falling = np.minimum.accumulate(share)
    below = np.flatnonzero(falling < target)
    if not len(below):
        return float(x[-1])
    after = int(below[0])
    if after == 0:
        return float(x[0])
    drop = falling[after - 1] - falling[after]
    return float(x[after - 1] + (x[after] - x[after - 1]) * (falling[after - 1] - target) / drop)


def check(config: ExperimentConfig) -> None:
    """See whether a configuration has a capacity.

    Raises:
        ConfigError: It has not.
    """
    if not Slo(**config.slo).limits:
        raise ConfigError(f"slo={config.slo.get('name')}: it has no limits to meet; choose another, e.g. slo=llama3_8b")
    if config.workload.arrivals != "open":
        raise ConfigError(
            f"workload.arrivals={config.workload.arrivals}: there is no rate to vary; capacity needs workload=open"
        )
    if config.trace.rate_scale is not None:
        raise ConfigError(f"trace.rate_scale={config.trace.rate_scale:g}: capacity sets the rate itself; leave it out")


def limiting(probe: Probe | None) -> str | None:
    """The limit that most requests miss, such as ``ttft_s``."""
    return None if probe is None else min(probe.by_limit, key=lambda limit: probe.by_limit[limit])


def frame(searches: Sequence[tuple[str, Search]]) -> dict[str, list[object]]:
    """All probes as columns, a row each, by search and rate."""
    rows = [(name, search, each) for name, search in searches for each in sorted(search.probes, key=lambda p: p.rate)]
    return {
        "run": [name for name, _, _ in rows],
        "rate": [each.rate for _, _, each in rows],
        "attainment": [each.attainment for _, _, each in rows],
        "meets": [search.meets(each) for _, search, each in rows],
        "span_s": [each.span_s for _, _, each in rows],
        "output_tokens_per_s": [each.output_tokens_per_s for _, _, each in rows],
        "ttft_p99_s": [each.ttft_p99_s for _, _, each in rows],
        "tpot_p99_s": [each.tpot_p99_s for _, _, each in rows],
    }


def _p99(values: NDArray[np.float64]) -> float | None:
    sample = Sample(values)
    return float(sample.quantile(0.99)) if sample.count else None

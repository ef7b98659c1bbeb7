"""A roofline's few physical parameters, fitted to what requests took on any engine: replays in the simulator."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import huber

from harness.backends.sim import server_model
from harness.config import ConfigError, ExperimentConfig
from harness.cost.errors import CostError
from harness.cost.perturbation import METRICS, Replay, replay
from harness.metrics.schema import STATUSES
from harness.workload import Workload
from policies.hashing import uniform
from traces.schema import NONE, Trace

if TYPE_CHECKING:
    import numpy.typing as npt

    from harness.metrics.schema import Array

    FloatArray = npt.NDArray[np.float64]

_FRACTIONS = ("compute_fraction", "bandwidth_fraction", "attention_bandwidth_fraction")
_LEAST_REQUESTS = 20
_HELD_OUT = 0.25  # of the sessions
_LEAST_FRACTION = 0.02
_ITERATIONS = 12
_PROBE = 0.1  # units
_TYPICAL = 1e-3  # relative error up to which every observation counts in full
_PULL = 1e-8  # towards the start, for each unit away from it: decides only what the requests do not


class ObservationError(CostError):
    """Observed requests that nothing can be fitted to; the message names what they lack."""


@dataclass(frozen=True)
class FittedParameter:
    """One parameter.

    Attributes:
        name: The knob, as the command line calls it.
        start: Its value in the configuration.
        value: Its fitted value.
    """

    name: str
    start: float
    value: float


@dataclass(frozen=True)
class FitError:
    """How far the simulator is off, for one metric and one part of the requests.

    Attributes:
        metric: ``ttft_s``, ``tpot_s`` or ``e2e_s``.
        held_out: Of the requests that took no part in the fit.
        requests: How many.
        of_mean: Relative error of the mean; positive where the simulator is too slow.
        mape: Mean of the absolute relative errors of single requests.
    """

    metric: str
    held_out: bool
    requests: int
    of_mean: float
    mape: float


@dataclass(frozen=True)
class FitResult:
    """What a fit found.

    Attributes:
        parameters: The parameters.
        before: Errors with the configuration's own values.
        after: Errors with the fitted ones.
        replays: How many times the requests were simulated.
    """

    parameters: tuple[FittedParameter, ...]
    before: tuple[FitError, ...]
    after: tuple[FitError, ...]
    replays: int

    @property
    def overrides(self) -> list[str]:
        """The fitted values as words for the command line of ``harness run``."""
        return [f"{parameter.name}={parameter.value:.6g}" for parameter in self.parameters]


def fit_observations(
    requests: Mapping[str, Array],
    config: ExperimentConfig,
    watch: Callable[[int, float], None] = lambda _replays, _error: None,
    trace: Trace | None = None,
) -> FitResult:
    """Fit compute, bandwidth, attention and the overhead of a request to observed requests.

    Damped Gauss-Newton steps (Levenberg, 1944; Marquardt, 1963) on the relative errors of each request's TTFT, TPOT and
    E2E, large ones counting less (Huber, 1964). What a parameter does to them is followed through the steps of one
    replay with its decisions held (infinitesimal perturbation analysis: Ho and Cao, 1983); two replays with other
    values decide differently, and their difference is mostly that. A quarter of the sessions, by a fixed hash, take no
    part.

    Args:
        requests: The observed requests, as :mod:`harness.metrics.importers` and :func:`harness.metrics.files.load_run`
            give their columns.
        config: The server that they ran on; ``cost`` is a roofline.
        watch: Told how many replays there have been, and the mean absolute error so far.
        trace: The requests with their prompts, where known; otherwise no two share a prefix.

    Raises:
        ObservationError: There are too few requests, or they lack times.
        ConfigError: The configuration is of no roofline.
    """
    if config.cost.get("name") != "roofline":
        raise ConfigError(
            f"cost.name={config.cost.get('name')}: a fit finds a roofline's parameters; take cost=roofline"
        )
    observed = _Observed.of(requests, trace)
    search = _Search(observed, config, watch)
    start = search.start.copy()
    before = search.errors(start)
    best = search.run()
    return FitResult(
        tuple(
            FittedParameter(name, float(first), float(last))
            for name, first, last in zip(search.names, start * search.units, best * search.units, strict=True)
        ),
        before,
        search.errors(best),
        search.replays,
    )


@dataclass(frozen=True)
class _Observed:
    """Requests to replay, and what they took.

    Attributes:
        trace: The requests.
        times: (requests,) seconds by metric, NaN where there is none.
        held_out: (requests,) whether it takes no part in the fit.
    """

    trace: Trace
    times: dict[str, FloatArray]
    held_out: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, requests: Mapping[str, Array], trace: Trace | None) -> _Observed:
        ended = (requests["status"] == STATUSES.index("ok")) & (requests["output_tokens"] > 0)
        if (count := int(ended.sum())) < _LEAST_REQUESTS:
            raise ObservationError(f"{count} requests ended with tokens: give at least {_LEAST_REQUESTS} to fit to")
        # Those that failed were a load as well, but what they took of the server is not known.
        columns = {name: values[ended] for name, values in requests.items()}
        order = np.argsort(columns["arrival_s"], kind="stable")
        columns = {name: values[order] for name, values in columns.items()}
        if trace is None:
            trace = Trace.build(
                name="observed",
                arrival_s=columns["arrival_s"] - columns["arrival_s"].min(),
                prompt_tokens=columns["prompt_tokens"],
                output_tokens=columns["output_tokens"],
                request_id=columns["request_id"],
            )
        row = {int(name): index for index, name in enumerate(columns["request_id"])}
        missing = [int(name) for name in trace.request_id if int(name) not in row]
        if missing:
            raise ObservationError(
                f"request {missing[0]} of trace {trace.name} was not observed; give the trace that ran"
            )
        rows = np.array([row[int(name)] for name in trace.request_id])
        times = {metric: np.asarray(columns[metric], np.float64)[rows] for metric in METRICS}
        sessions = columns.get("session_id")
        sessions = trace.request_id if sessions is None else sessions[rows]
        names = np.where(sessions == NONE, trace.request_id, sessions)
        held_out = np.array([uniform(0, int(name)) < _HELD_OUT for name in names])
        return cls(trace, times, held_out)


class _Search:
    """The search for parameters, each counted in a unit of about 1 % of what it governs."""

    def __init__(self, observed: _Observed, config: ExperimentConfig, watch: Callable[[int, float], None]) -> None:
        self._observed = observed
        self._config = config
        self._watch = watch
        self._workload = Workload(observed.trace)
        self.replays = 0
        fractions = {f"hardware.{name}": float(config.hardware[name]) for name in _FRACTIONS}
        start = fractions | {
            "backend.hops.receive_s": server_model(config).hops.receive_s,
        }
        self.names = list(start)
        request_unit = 0.01 * float(np.nanmedian(observed.times["ttft_s"]))
        self.units = np.array([*(0.01 * fraction for fraction in fractions.values()), request_unit])
        self.start = np.array(list(start.values())) / self.units
        self._least = np.array([_LEAST_FRACTION] * len(fractions) + [0.0]) / self.units
        self._most = np.array([1.0] * len(fractions) + [np.inf]) / self.units

    def run(self) -> FloatArray:
        """The parameters with the least error, in their units."""
        point = self.start
        residuals, slopes = self._look(point)
        damping = 1e-3
        for _ in range(_ITERATIONS):
            # Requests whose fate turned on a decision are far off, whatever the parameters: half count in full.
            typical = max(float(np.median(np.abs(residuals))), _TYPICAL)
            weight = np.minimum(1.0, typical / np.maximum(np.abs(residuals), 1e-12))
            gram = slopes.T @ (weight[:, None] * slopes) / len(residuals) + _PULL * np.eye(len(point))
            pull = -slopes.T @ (weight * residuals) / len(residuals) - _PULL * (point - self.start)
            loss, improved = self._loss(point, residuals, typical), False
            while not improved and damping < 1e3:
                step = np.linalg.solve(gram + damping * np.diag(np.diag(gram)), pull)
                tried = np.clip(point + step, self._least, self._most)
                found = self._look(tried)
                improved = self._loss(tried, found[0], typical) < loss
                damping *= 0.2 if improved else 10.0
            if not improved:
                break
            moved = float(np.abs(tried - point).max())
            point, (residuals, slopes) = tried, found
            if moved < 0.05:
                break
        return np.asarray(point)

    def errors(self, point: FloatArray) -> tuple[FitError, ...]:
        """Errors by metric and part."""
        replayed, found = self._replay(point).times, []
        for metric in METRICS:
            observed = self._observed.times[metric]
            for held_out in (False, True):
                chosen = (self._observed.held_out == held_out) & (observed > 0) & ~np.isnan(replayed[metric])
                if not chosen.any():
                    continue
                truth, guess = observed[chosen], replayed[metric][chosen]
                of_mean, mape = guess.mean() / truth.mean() - 1, np.abs(guess / truth - 1).mean()
                found.append(FitError(metric, held_out, int(chosen.sum()), float(of_mean), float(mape)))
        return tuple(found)

    def _loss(self, point: FloatArray, residuals: FloatArray, typical: float) -> float:
        return float(2 * huber(typical, residuals).mean() + _PULL * ((point - self.start) ** 2).sum())

    def _look(self, point: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Log ratios of simulated to observed seconds, of the requests that take part, and their slopes.

        Returns:
            (residuals,) and (residuals, parameters).
        """
        found, residuals, slopes = self._replay(point), [], []
        for metric in METRICS:
            observed, replayed = self._observed.times[metric], found.times[metric]
            chosen = ~self._observed.held_out & (observed > 0) & (replayed > 0)
            residuals.append(np.log(replayed[chosen] / observed[chosen]))
            slopes.append(found.slopes[metric][chosen] / replayed[chosen, None])
        together = np.concatenate(residuals)
        self._watch(self.replays, float(np.abs(together).mean()))
        return together, np.concatenate(slopes)

    def _replay(self, point: FloatArray) -> Replay:
        self.replays += 1
        values = dict(zip(self.names, (point * self.units).tolist(), strict=True))
        *device, _ = zip(self.names, self.units.tolist(), strict=True)
        # Down: a fraction then stays one.
        moved = [_with(self._config, values | {name: values[name] - _PROBE * unit}) for name, unit in device]
        found = replay(self._workload, _with(self._config, values), moved)
        scale = np.array([-1.0 / _PROBE for _ in device] + [self.units[-1]])
        return Replay(found.times, {metric: slopes * scale for metric, slopes in found.slopes.items()})


def _with(config: ExperimentConfig, values: Mapping[str, float]) -> ExperimentConfig:
    """The configuration, simulated, with other values of some knobs."""
    hardware: dict[str, Any] = dict(config.hardware)
    cost: dict[str, Any] = dict(config.cost)
    hops: dict[str, Any] = dict(config.backend.get("hops") or {})
    for knob, value in values.items():
        *_, group, name = knob.split(".")
        {"hardware": hardware, "cost": cost, "hops": hops}[group][name] = value
    backend = {"name": "sim", "loop": config.backend.get("loop"), "hops": hops}
    return dataclasses.replace(config, hardware=hardware, cost=cost, backend=backend)


def held_out(errors: Sequence[FitError]) -> dict[str, FitError]:
    """The errors of the requests that took no part, by metric."""
    return {error.metric: error for error in errors if error.held_out}

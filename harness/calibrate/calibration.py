"""A calibration: engine and host stages measured within a budget of time, saved as it goes."""

from __future__ import annotations

import dataclasses
import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np

from harness.backends.runtime import Runtime, runtime_of
from harness.calibrate.bench import Bench, StepTimes, decode_before
from harness.calibrate.places import (
    TURNS,
    Place,
    coarse_grid,
    leave_one_out,
    next_place,
    sharing,
    smallest_of_each_kind,
)
from harness.calibrate.power import Timed, fit_power_limit, in_a_row
from harness.calibrate.ranks import AllReduce, InARow, Others, Setup, Steps, all_reduce_seconds
from harness.calibrate.stages import Stages, loop_stages, points, process_stages
from harness.config import ExperimentConfig
from harness.cost.hardware import Hardware
from harness.cost.measured import CollectivePoint, MeasuredProfile, StepPoint
from harness.cost.roofline import Roofline, build_roofline
from harness.cost.work import StepWork
from harness.experiment import describe_environment
from harness.simulator.engine import EngineOptions, Shapes
from policies import build_policy
from runtime.engine.emulated import EmulatedEngine, instantly
from runtime.scheduler import Scheduler
from runtime.scheduler.graph_sizes import FUSED_KV_BYTES, ladder
from runtime.server.config import ServerConfig

_ROUND, _MOST_REPEATS = 3, 30
_STABLE = 0.01  # of the median: standard error at which a point is measured well enough
_POINT_SHARE = 0.02  # of the time, that a point may take beyond its first round
_STEP_SHARE = 0.015  # of the time, that one step may take to be measured at all
_ROWS = 7  # of steps one behind the other; the first does not count
_LOOP_SHARE = 0.08  # of the time, that the serving loop may be measured
_MOST_PLACES = 320  # more would tell little, and make the cost model slow
_LEAST_PLACES = 12  # measured even where the engine took all the time to build
_SAVE_EVERY_S = 15.0
_TELL_EVERY_S = 0.5
_DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "bf16"}
_REDUCED_BYTES = tuple(4**power for power in range(5, 14))  # 1 KiB to 64 MiB


class Calibration:
    """One model on one kind of device.

    Attributes:
        places: Steps measured.
        ratios: Of each, seconds over the roofline's for its work.
        failures: Parts that could not be measured, and why.
        took_s: Seconds by part, as they were spent.

    Args:
        config: An experiment with ``backend=runtime`` and ``cost=roofline``.
        seconds: Wall-clock time to take, of which building the engine is a part.
        out: Directory of the profile.
        command: What the user said.
        watch: Told how far it is, in a line.
    """

    def __init__(
        self, config: ExperimentConfig, *, seconds: float, out: Path, command: str, watch: Callable[[str], None]
    ) -> None:
        self._begun_s = time.monotonic()
        self._seconds = seconds
        self._out = out
        self._command = command
        self._watch = watch
        self._config = config
        self._runtime: Runtime = runtime_of(config)
        options = self._runtime.engine.options
        self._on_gpu = options["device"] == "cuda"
        self._dtype = _DTYPES[str(options["dtype"] or config.model.get("torch_dtype") or "bfloat16")]
        cost = dict(config.cost) | {"weight_dtype": self._dtype, "kv_dtype": self._dtype}
        self._roofline: Roofline = build_roofline(config.model, config.hardware, config.tp, cost)
        replays = self._on_gpu and config.engine.cuda_graph
        self._fused_kv_bytes = FUSED_KV_BYTES if replays else 0
        self._work = StepWork(self._roofline, chunk_graphs=replays, fused_kv_bytes=self._fused_kv_bytes)
        self._sizes = self._runtime.scheduler  # the engine may have room for fewer pages
        self._step_tokens = build_policy(config.policy).batching.step_tokens
        self.places: list[Place] = []
        self.ratios: list[float] = []
        self.failures: list[str] = []
        self.took_s: dict[str, float] = {}
        self._environment = describe_environment()
        self._shared_saves: float | None = None
        self._rows: list[list[Timed]] = []  # of steps one behind the other, for the power limit
        self._steps: list[StepPoint] = []
        self._host: Stages = {}
        self._collectives: list[CollectivePoint] = []
        self._saved_s = self._told_s = self._part_begun_s = self._begun_s

    def run(self) -> MeasuredProfile:
        """Measure until the time is up or there are places enough; an interruption keeps what there is.

        Raises:
            ValueError: A knob is wrong, or the engine cannot be built.
        """
        self._watch("building the engine")
        with tempfile.TemporaryDirectory(prefix="servetwin-") as directory:
            setup = Setup(
                self._runtime.engine,
                self._runtime.scheduler,
                self._config.policy,
                0,
                self._config.tp,
                f"file://{directory}/rendezvous",
            )
            others = Others(setup)
            try:
                with _telling(self._watch):
                    bench = setup.build()
                self._sizes = bench.scheduler.config
                self._done("building the engine")
                try:
                    self._measure(bench, others)
                finally:
                    self._done("steps")
                    self._keep()
                    bench.close()
            except KeyboardInterrupt:
                self._watch("interrupted: what was measured is kept")
            finally:
                others.close()
        return self.profile()

    def profile(self) -> MeasuredProfile:
        """What was measured so far."""
        sizes, config = self._sizes, self._config
        options = self._runtime.engine.options
        replayed = any(point.graph for point in self._steps)
        return MeasuredProfile(
            model=self._roofline.model,
            hardware=Hardware.from_config(config.hardware),
            device=_device_name(self._on_gpu),
            tp=config.tp,
            weight_dtype=self._dtype,
            kv_dtype=self._dtype,
            page_size=sizes.page_size,
            pages=sizes.pages,
            max_running=sizes.max_running,
            max_context=sizes.max_context,
            graph_sizes=tuple(ladder(sizes.max_running)) if replayed else (),
            overlap=config.engine.overlap,
            attention=str(options["attention"]),
            versions=_versions(self._environment),
            date=time.strftime("%Y-%m-%d"),
            command=self._command,
            steps=sorted(self._steps, key=lambda point: dataclasses.astuple(point.shape)),
            host=points(self._host),
            collectives=self._collectives,
            shared_saves=self._shared_saves,
            fused_kv_bytes=self._fused_kv_bytes if replayed else 0,
            power_limit=fit_power_limit(self._rows),
        )

    def _measure(self, bench: Bench, others: Others) -> None:
        grid = coarse_grid(self._sizes, self._step_tokens, self._work)
        self._watch("first steps")
        for place in smallest_of_each_kind(grid):
            self._times(bench, others, place, 2)  # what compiles, tunes or allocates when it first runs
        self._done("first steps")
        self._part("host stages", self._process_stages)
        self._part("the serving loop", lambda: self._loop_stages(bench))
        self._part("shared prefixes", lambda: self._sharing(bench, others))
        if self._on_gpu:
            self._part("power limit", lambda: self._power(bench, others))
        if self._config.tp > 1:
            self._all_reduces(others)
            self._done("all-reduces")
        for number, place in enumerate(grid):
            if self._left_s() < 0 and number >= _LEAST_PLACES:
                self._watch(f"the time was up after {number} of {len(grid)} places of the coarse grid")
                return
            self._point(bench, others, place)
        tried = set(grid)
        idle = 0  # turns in a row in which there was nothing left to measure
        for kind in cycle(TURNS):
            if self._left_s() < 0 or len(self.places) >= _MOST_PLACES or idle > len(TURNS):
                return
            idle += 1
            kin = [index for index, place in enumerate(self.places) if place.kind == kind]
            places, ratios = [self.places[index] for index in kin], [self.ratios[index] for index in kin]
            following = next_place(places, ratios, tried, self._sizes, self._step_tokens)
            if following is not None:
                idle = 0
                tried.add(following)
                self._point(bench, others, following)

    def _done(self, part: str) -> None:
        now_s = time.monotonic()
        self.took_s[part], self._part_begun_s = now_s - self._part_begun_s, now_s

    def _part(self, name: str, measure: Callable[[], None]) -> None:
        """Measure a part of the host's; where it fails the others are still worth having."""
        try:
            measure()
        except Exception as error:  # whatever a server's process may die of
            self.failures.append(f"{name}: {type(error).__name__}: {error}")
            self._watch(self.failures[-1])
        self._done(name)

    def _left_s(self) -> float:
        return self._begun_s + self._seconds - time.monotonic()

    def _point(self, bench: Bench, others: Others, place: Place) -> None:
        """Measure a step until its median is known well, or that has taken long enough."""
        expected_s = self._roofline_s(place) * float(np.median(self.ratios or [1.0]))
        if self.ratios and expected_s > _STEP_SHARE * self._seconds:
            return
        begun_s = time.monotonic()
        times: list[StepTimes] = []
        launches_s: list[float] = []
        while len(times) < _MOST_REPEATS:
            # Twice as many again, where they are not enough: the first of each round does not count.
            measured = self._times(bench, others, place, max(len(times), _ROUND))
            launches_s += [one.launch_s for one in measured]
            times += measured[1:]
            seconds = np.array([one.run.duration_s for one in times])
            spread_s = float(np.subtract(*np.percentile(seconds, (75, 25))))
            stable = spread_s / 1.35 / len(times) ** 0.5 < _STABLE * float(np.median(seconds))
            if stable or time.monotonic() - begun_s > min(_POINT_SHARE * self._seconds, max(self._left_s(), 0.0)):
                break
        run = times[0].run
        options = EngineOptions(cuda_graph=run.graph, max_graph_sequences=self._sizes.max_running)
        shape, _ = Shapes(options, shared_saves=0.0)(bench.batch(place))
        device_s = float(np.median(seconds))
        self._steps.append(StepPoint(shape, run.graph, device_s, spread_s, len(times)))
        self.places.append(place)
        self.ratios.append(device_s / sum(self._work.roofline_s(shape)))
        rows = place.prefills * place.chunk + place.decodes
        for stage, host_s in (("launch", launches_s), ("collect", [one.collect_s for one in times])):
            key = (stage, place.prefills + place.decodes, rows, run.graph, self._config.engine.overlap)
            self._host.setdefault(key, []).extend(host_s)
        self._tell()

    def _sharing(self, bench: Bench, others: Others) -> None:
        """What reading KV costs less where sequences share it: between nothing, and as though it were not there."""
        self._watch("decodes that share a prefix")
        saves = []
        for places in sharing(self._sizes):
            shared_s, apart_s, less_s = (
                float(np.median([one.run.duration_s for one in self._times(bench, others, place, 2 * _ROUND)[1:]]))
                for place in places
            )
            if less_s < apart_s:
                saves.append(min(max((apart_s - shared_s) / (apart_s - less_s), 0.0), 1.0))
        self._shared_saves = round(float(np.median(saves)), 3) if saves else None

    def _power(self, bench: Bench, others: Others) -> None:
        """What prefills do to the clocks, and those to the steps behind them."""
        row = in_a_row(self._sizes, self._step_tokens, self._before, self._roofline_s)
        places = [place for _, place in row]
        for number in range(_ROWS if row else 0):
            self._watch(f"decodes behind prefills, {number + 1} of {_ROWS}")
            others.tell(InARow(places))
            runs = [one.run for one in bench.in_a_row(places)]
            if number:  # the first may have loaded a kernel
                timed = [Timed(part, run.start_s, run.duration_s) for (part, _), run in zip(row, runs, strict=True)]
                self._rows.append(timed)

    def _times(self, bench: Bench, others: Others, place: Place, repeats: int) -> list[StepTimes]:
        others.tell(Steps(place, self._before, repeats))
        return bench.run(place, self._before, repeats)

    @cached_property
    def _before(self) -> Place:
        """What a GPU decodes in front of every step; asked for once the engine has said how many pages it has."""
        return decode_before(self._sizes, self._roofline_s)

    def _roofline_s(self, place: Place) -> float:
        return sum(self._work.roofline_s(place.shape(place.decodes)))

    def _process_stages(self) -> None:
        self._watch("host: messages, tokenizer, detokenizer")
        process_stages(self._server_config(), self._host)

    def _loop_stages(self, bench: Bench) -> None:
        """With the engine under the serving loop where it is the only rank."""
        config, scheduler = self._server_config(), bench.scheduler
        engine: Any = bench.engine
        if config.tp > 1:  # the others would have to run the same steps
            engine = EmulatedEngine(instantly, config.vocab_size)
            scheduler = Scheduler(scheduler.config, build_policy(self._config.policy))
        sizes = self._sizes
        loop_stages(
            config,
            scheduler,
            engine,
            self._host,
            launches=engine is bench.engine,
            room=min(sizes.pages * sizes.page_size, 4 * self._step_tokens),
            seconds=_LOOP_SHARE * self._seconds,
            watch=self._watch,
        )

    def _all_reduces(self, others: Others) -> None:
        import torch.distributed as dist

        for size in _REDUCED_BYTES:
            begun_s = time.monotonic()
            self._watch(f"all-reduce of {size:,} bytes")
            others.tell(AllReduce(size, _ROUND))
            seconds = all_reduce_seconds(size, _ROUND)
            spread_s = float(np.subtract(*np.percentile(seconds, (75, 25))))
            point = CollectivePoint("all_reduce", dist.get_backend(), size, float(np.median(seconds)), spread_s, _ROUND)
            self._collectives.append(point)
            if 4 * (time.monotonic() - begun_s) > _POINT_SHARE * self._seconds:
                return  # the next is of four times the bytes

    def _server_config(self) -> ServerConfig:
        runtime, config = self._runtime, self._config
        return ServerConfig(
            model=str(config.model.get("name", "model")),
            vocab_size=runtime.vocab_size,
            scheduler=self._sizes,
            policy=config.policy,
            engine=runtime.engine,
            overlap=config.engine.overlap,
            tp=config.tp,
            http=False,
        )

    def _tell(self) -> None:
        if len(self.places) > 2 and time.monotonic() - self._told_s > _TELL_EVERY_S:
            self._told_s = time.monotonic()
            errors = leave_one_out(self.places, self.ratios)
            known = errors[np.isfinite(errors)]
            worst = f"foretold by the others to {np.median(known):.1%}, worst {known.max():.0%}" if len(known) else ""
            self._watch(f"{len(self.places)} steps measured, {worst}, {max(self._left_s(), 0):.0f} s left")
        if time.monotonic() - self._saved_s > _SAVE_EVERY_S:
            self._keep()

    def _keep(self) -> None:
        """Save what there is."""
        if self._steps:
            self.profile().save(self._out)
            self._saved_s = time.monotonic()


@contextmanager
def _telling(watch: Callable[[str], None]) -> Iterator[None]:
    """What the engine logs while it is built: most of a short calibration may go there."""

    class Teller(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            watch(f"building the engine: {record.getMessage()}")

    logger, teller = logging.getLogger("runtime"), Teller()
    level = logger.level
    logger.addHandler(teller)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(teller)


def _device_name(on_gpu: bool) -> str:
    if on_gpu:
        import torch

        return str(torch.cuda.get_device_name())
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "CPU")


def _versions(environment: dict[str, Any]) -> dict[str, str]:
    packages = {name: str(known) for name, known in environment["packages"].items() if known is not None}
    for name in ("flashinfer-python", "triton"):
        with suppress(PackageNotFoundError):
            packages[name] = version(name)
    return {"python": str(environment["python"]), **packages, "commit": environment["commit"] or "unknown"}

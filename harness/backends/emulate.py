"""The real server's processes and messages, with an engine that sleeps what the cost model says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

from harness.backends.served import serve_and_play
from harness.backends.sim import server_model
from harness.config import EngineConfig, ExperimentConfig, TraceConfig, WorkloadConfig
from harness.progress import Progress
from harness.record import RunRecord
from harness.simulator.engine import StepSeconds
from harness.workload import Workload
from runtime.scheduler import Batch
from runtime.server.config import EngineSpec


def replay(config: ExperimentConfig, workload: Workload, progress: Callable[[Progress], bool]) -> RunRecord:
    """Replay a workload through the real server with a modelled engine.

    Args:
        config: What to run.
        workload: What to replay.
        progress: Told how far it is; says whether to go on.

    Raises:
        ValueError: A knob is wrong, the model does not fit, or the server did not start.
    """
    model = server_model(config)
    options: dict[str, Any] = {"vocab_size": model.vocab_size}
    if not config.backend["instant"]:
        options |= {"cost": "harness.backends.emulate.step_seconds", "cost_options": asdict(config)}
    engine = EngineSpec("runtime.engine.emulated.build", options)
    return serve_and_play(config, workload, model.scheduler, engine, model.vocab_size, progress)


def step_seconds(options: Mapping[str, Any]) -> Callable[[Batch], float]:
    """What a step takes, for the engine in a worker process.

    Args:
        options: The experiment's configuration as plain values.
    """
    values = dict(options)
    nested = {"trace": TraceConfig, "workload": WorkloadConfig, "engine": EngineConfig}
    config = ExperimentConfig(**values | {name: kind(**values[name]) for name, kind in nested.items()})
    model = server_model(config)
    return StepSeconds(model.cost, model.options)

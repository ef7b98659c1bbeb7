"""What an emulated step takes, for the engine in a worker process: imports no more than that needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from harness.backends.sim import server_model
from harness.config import EngineConfig, ExperimentConfig, TraceConfig, WorkloadConfig
from harness.simulator.engine import Shapes, StepSeconds
from runtime.scheduler import Batch


def step_seconds(options: Mapping[str, Any]) -> Callable[[Batch, float], float]:
    """What a step takes, for the engine in a worker process.

    Args:
        options: The experiment's configuration as plain values.
    """
    values = dict(options)
    nested = {"trace": TraceConfig, "workload": WorkloadConfig, "engine": EngineConfig}
    config = ExperimentConfig(**values | {name: kind(**values[name]) for name, kind in nested.items()})
    model = server_model(config)
    shape, seconds = Shapes(model.options, model.cost.shared_saves), StepSeconds(model.cost)
    return lambda batch, start_s: seconds.busy_s(*shape(batch), start_s)

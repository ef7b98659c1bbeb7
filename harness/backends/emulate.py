"""The real server's processes and messages, with an engine that sleeps what the cost model says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from harness.backends.served import serve_and_play
from harness.backends.sim import server_model
from harness.config import ExperimentConfig
from harness.progress import Progress
from harness.record import RunRecord
from harness.workload import Workload
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
        options |= {"cost": "harness.backends.emulated_step.step_seconds", "cost_options": asdict(config)}
    engine = EngineSpec("runtime.engine.emulated.build", options)
    record = serve_and_play(config, workload, model.scheduler, engine, model.vocab_size, progress)
    return replace(record, notes=model.notes)

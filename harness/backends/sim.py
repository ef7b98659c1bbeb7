"""The simulated server."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from harness.config import ConfigError, ExperimentConfig
from harness.cost.build import build_cost
from harness.cost.host import hop_costs, loop_costs
from harness.cost.memory import kv_capacity
from harness.metrics.token_table import token_columns
from harness.progress import Progress
from harness.record import RunRecord
from harness.simulator.engine import EngineOptions, SchedulerCosts
from harness.simulator.frontend import HopCosts
from harness.simulator.simulation import ServerModel, Simulation
from harness.workload import Workload
from policies import build_policy
from runtime.scheduler import SchedulerConfig

Costs = TypeVar("Costs", SchedulerCosts, HopCosts)


def replay(config: ExperimentConfig, workload: Workload, progress: Callable[[Progress], bool]) -> RunRecord:
    """Replay a workload through the simulated server.

    Args:
        config: What to simulate.
        workload: What to replay.
        progress: Told how far it is, several times a second; says whether to go on.

    Raises:
        ValueError: A knob is wrong, or the model does not fit.
    """
    server = server_model(config)
    simulation = Simulation(workload, server, build_policy(config.policy), keep_tokens=config.token_times)
    complete = simulation.run(lambda now: progress(now.progress()))
    return RunRecord(
        requests=simulation.requests.columns(workload.warmup_s),
        steps=simulation.steps.columns(),
        decisions=simulation.steps.decisions(),
        gaps=simulation.tokens.gaps(),
        tokens=token_columns(simulation.tokens.times_s()) if config.token_times else None,
        complete=complete,
        server=dataclasses.asdict(server.scheduler),
        notes=server.notes,
    )


def server_model(config: ExperimentConfig) -> ServerModel:
    """What the configuration says is simulated.

    Raises:
        ValueError: A knob is wrong, or the model does not fit.
    """
    engine = config.engine
    built = build_cost(config.model, config.hardware, config.tp, config.cost)
    roofline = built.roofline
    memory = kv_capacity(
        roofline.model,
        roofline.hardware,
        tp=config.tp,
        weight_dtype=roofline.weight_dtype,
        kv_dtype=roofline.kv_dtype,
        memory_fraction=engine.memory_fraction,
        workspace_bytes=engine.workspace_bytes,
        page_size=engine.page_size,
        pages=engine.pages,
    )
    context = roofline.model.max_position_embeddings if engine.max_context is None else engine.max_context
    settings = dict(config.backend)
    on_cpu = roofline.hardware.name == "cpu"  # which has no graphs
    return ServerModel(
        scheduler=SchedulerConfig(memory.pages, engine.page_size, engine.max_running, context),
        options=EngineOptions(engine.overlap, engine.cuda_graph and not on_cpu, engine.max_running),
        cost=built.cost,
        loop=_costs(SchedulerCosts, "backend.loop", settings.get("loop"), loop_costs(built.host, engine.overlap)),
        hops=_costs(HopCosts, "backend.hops", settings.get("hops"), hop_costs(built.host)),
        vocab_size=roofline.model.vocab_size,
        leap=bool(settings.get("leap", True)),
        notes=built.notes,
    )


def _costs(kind: type[Costs], knob: str, values: Mapping[str, Any] | None, measured: Mapping[str, float]) -> Costs:
    """What the configuration sets, else what was measured, else what the kind assumes."""
    names = [field.name for field in dataclasses.fields(kind)]
    given = {name: value for name, value in (values or {}).items() if value is not None}
    for name, value in given.items():
        if name not in names:
            raise ConfigError(f"{knob}.{name}: no such cost; choose from {', '.join(names)}")
        if not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise ConfigError(f"{knob}.{name}={value}: expected a number, not negative")
    costs = kind(**{**measured, **given})
    if isinstance(costs, HopCosts) and costs.tokenizers < 1:
        raise ConfigError(f"{knob}.tokenizers={costs.tokenizers}: at least 1")
    return costs

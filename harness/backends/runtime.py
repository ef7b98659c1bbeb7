"""The real server: our runtime on this machine's CPU or GPUs."""

from __future__ import annotations

from collections.abc import Callable

from harness.backends.served import serve_and_play
from harness.config import ConfigError, ExperimentConfig
from harness.cost.roofline import build_roofline
from harness.progress import Progress
from harness.record import RunRecord
from harness.workload import Workload
from runtime.scheduler import SchedulerConfig
from runtime.server.config import EngineSpec


def replay(config: ExperimentConfig, workload: Workload, progress: Callable[[Progress], bool]) -> RunRecord:
    """Replay a workload through the real server.

    Args:
        config: What to run.
        workload: What to replay.
        progress: Told how far it is; says whether to go on.

    Raises:
        ValueError: A knob is wrong, torch is not installed, or the server did not start.
    """
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "backend=runtime needs torch: pip install 'servetwin[runtime]', or take backend=sim"
        ) from error
    engine, settings = config.engine, config.backend
    shape = build_roofline(config.model, config.hardware, config.tp, config.cost).model
    pages = engine.pages if engine.pages is not None else int(settings["kv_tokens"]) // engine.page_size
    context = shape.max_position_embeddings if engine.max_context is None else engine.max_context
    scheduler = SchedulerConfig(pages, engine.page_size, engine.max_running, context)
    fields = {key: value for key, value in config.model.items() if key not in ("name", "path")}
    options = {
        "model": config.model.get("path") or fields,
        "device": settings["device"],
        "dtype": settings["dtype"],
        "threads": settings["threads"],
    }
    if settings["seed"] is not None:
        options["seed"] = settings["seed"]
    elif config.model.get("path") is None:
        raise ConfigError("backend.seed=null: weights come from a checkpoint then; name its folder by model.path=")
    spec = EngineSpec("runtime.engine.torch_engine.build", options)
    return serve_and_play(config, workload, scheduler, spec, shape.vocab_size, progress)

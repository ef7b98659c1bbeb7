"""The real server: our runtime on this machine's CPU or GPUs."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from harness.backends.host_memory import check_host_memory
from harness.backends.served import serve_and_play
from harness.config import ConfigError, ExperimentConfig
from harness.cost.model import ModelShape
from harness.progress import Progress
from harness.record import RunRecord
from harness.workload import Workload
from runtime.scheduler import SchedulerConfig
from runtime.server.config import EngineSpec

_DEVICES = ("cpu", "cuda")
_MOST_SLOTS = (1 << 31) - 1  # page tables are of 32 bits


class Runtime(NamedTuple):
    """What the server's processes are to be told of model and engine.

    Attributes:
        scheduler: Sizes.
        engine: Which engine the workers build.
        vocab_size: Of the model.
        folder: Of the model, where it has one: tokenizer and, unless random ones are wanted, weights.
    """

    scheduler: SchedulerConfig
    engine: EngineSpec
    vocab_size: int
    folder: Path | None


def replay(config: ExperimentConfig, workload: Workload, progress: Callable[[Progress], bool]) -> RunRecord:
    """Replay a workload through the real server.

    Args:
        config: What to run.
        workload: What to replay.
        progress: Told how far it is; says whether to go on.

    Raises:
        ValueError: A knob is wrong, or the server did not start.
        ModuleNotFoundError: torch is not installed.
    """
    runtime = runtime_of(config)
    check_host_memory(config, runtime.scheduler, random="seed" in runtime.engine.options)
    return serve_and_play(config, workload, runtime.scheduler, runtime.engine, runtime.vocab_size, progress)


def runtime_of(config: ExperimentConfig) -> Runtime:
    """Model, engine and sizes, from an experiment with ``backend=runtime``.

    A model folder with safetensors is loaded, any other model gets random weights.

    Raises:
        ValueError: A knob is wrong.
        ModuleNotFoundError: torch is not installed.
    """
    if find_spec("torch") is None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")  # now: only its processes import it
    engine, settings = config.engine, config.backend
    if settings["device"] not in _DEVICES:
        raise ConfigError(f"backend.device={settings['device']}: choose from {', '.join(_DEVICES)}")
    if engine.page_size < 1:
        raise ConfigError(f"engine.page_size={engine.page_size}: at least 1 token")
    shape = ModelShape.from_config(config.model)
    shape.check_tp(config.tp)
    pages, fits = engine.pages, {}
    if pages is None and settings["device"] == "cuda":
        pages, fits = _MOST_SLOTS // engine.page_size, {"memory_fraction": engine.memory_fraction}
    elif pages is None:
        pages = int(settings["kv_tokens"]) // engine.page_size
    context = shape.max_position_embeddings if engine.max_context is None else engine.max_context
    if context > shape.max_position_embeddings:
        raise ConfigError(
            f"engine.max_context={context}: the model's positions end at {shape.max_position_embeddings}; "
            "set engine.max_context to that or less"
        )
    path = None if config.model.get("path") is None else Path(str(config.model["path"])).expanduser()
    folder = path if path is not None and path.is_dir() else None
    fields = {key: value for key, value in config.model.items() if key not in ("name", "path")}
    options = {
        "model": fields if path is None else str(path),
        "device": settings["device"],
        "dtype": settings["dtype"],
        "weight_dtype": settings["weight_dtype"],
        "kv_dtype": settings["kv_dtype"],
        "threads": settings["threads"],
        "attention": settings["attention"],
        "cuda_graph": engine.cuda_graph,
        "all_reduce": settings["all_reduce"],
        **fits,
    }
    if folder is None or not any(folder.glob("*.safetensors")):
        options["seed"] = settings["seed"]
    return Runtime(
        SchedulerConfig(pages, engine.page_size, engine.max_running, context),
        EngineSpec("runtime.engine.torch_engine.build", options),
        shape.vocab_size,
        folder,
    )

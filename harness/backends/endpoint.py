"""Any OpenAI-compatible server, that someone else started."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from harness.config import ConfigError, ExperimentConfig
from harness.cost.model import ModelShape
from harness.live.http import OWNER, Endpoint, HttpTransport, reachable
from harness.live.player import Player, ServerGoneError
from harness.progress import Progress
from harness.record import RunRecord
from harness.workload import Workload
from traces.prompts import PromptMaker


def replay(config: ExperimentConfig, workload: Workload, progress: Callable[[Progress], bool]) -> RunRecord:
    """Replay a workload through a server by its URL. What goes on inside it is unknown, and null in the tables.

    Args:
        config: The experiment; ``model`` gives the vocabulary that prompts are made of.
        workload: What to replay.
        progress: Told how far it is; says whether to go on.

    Raises:
        ConfigError: No such server answers.
    """
    settings = config.backend
    url = str(settings["url"]).rstrip("/")
    try:
        models = reachable(url, settings["api_key"])
    except ServerGoneError as error:
        raise ConfigError(f"backend.url={url}: {error}; start the server, or name its URL") from error
    served = settings["served_model"] or next(iter(models), None)
    if served is None:
        raise ConfigError(f"backend.url={url}: it lists no model; name one by backend.served_model=")
    endpoint = Endpoint(
        url,
        str(served),
        settings["api_key"],
        bool(settings["by_text"]),
        float(settings["timeout_s"]),
        dict(settings["extra"] or {}),
        models.get(str(served)) == OWNER,
    )
    vocab_size = ModelShape.from_config(config.model).vocab_size
    prompts = PromptMaker(workload.trace, vocab_size, workload.prompt_seed)
    transport = HttpTransport(endpoint, workload, prompts)
    try:
        player = Player(workload, transport, float(settings["drop_after_s"]), keep_tokens=config.token_times)
        outcome = player.play(progress)
    finally:
        transport.close()
    errors = np.abs(transport.prompt_errors) if transport.prompt_errors else np.zeros(0)
    return RunRecord(
        requests=player.log.columns(workload.warmup_s),
        steps=None,
        decisions=None,
        gaps=player.times.gaps(),
        tokens=player.tokens(),
        complete=outcome.complete,
        failure=outcome.failure,
        server={
            "url": url,
            "served_model": endpoint.model,
            "prompt_tokens_error_mean": float(errors.mean()) if len(errors) else None,
            "prompt_tokens_error_max": int(errors.max()) if len(errors) else None,
        },
    )

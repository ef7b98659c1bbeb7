"""What ``emulate`` and ``runtime`` share: our real server, started for the run and stopped after it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import msgspec

from harness.config import ConfigError, ExperimentConfig
from harness.live.direct import DirectTransport
from harness.live.http import Endpoint, HttpTransport
from harness.live.player import Outcome, Player, Transport
from harness.live.steps import StepTable
from harness.progress import Progress
from harness.record import RunRecord
from harness.workload import Arrivals, Workload
from runtime.messages import StepRecord
from runtime.open_files import allow_many_files
from runtime.scheduler import SchedulerConfig
from runtime.server.client import Client, StepReader
from runtime.server.config import EngineSpec, ServerConfig, ServerError
from runtime.server.launch import Server, ServerDiedError
from traces.prompts import PromptMaker

_STEPS = "steps"
_LAST_RECORD_S = 0.2  # after the last request's end, a step may still be in flight
_OTHER_FILES = 128  # that a process holds open beside its connections
_OUR_FIELDS = {"ignore_eos": True, "return_moments": True}


def serve_and_play(
    config: ExperimentConfig,
    workload: Workload,
    scheduler: SchedulerConfig,
    engine: EngineSpec,
    vocab_size: int,
    progress: Callable[[Progress], bool],
) -> RunRecord:
    """Start a server, replay a workload through it, stop it.

    Args:
        config: The experiment.
        workload: What to replay.
        scheduler: Sizes.
        engine: What the workers run.
        vocab_size: Of the model.
        progress: Told how far it is; says whether to go on.

    Raises:
        ConfigError: The server cannot be started as asked, or did not start.
    """
    settings = config.backend
    over_http = {"direct": False, "http": True}.get(str(settings["client"]))
    if over_http is None:
        raise ConfigError(f"backend.client={settings['client']}: direct or http")
    stall_s = settings["stall_s"]
    if not (isinstance(stall_s, int | float) and 0 < stall_s < float("inf")):
        raise ConfigError(f"backend.stall_s={stall_s}: expected seconds, above 0, e.g. 60")
    at_once = workload.at_once if workload.arrivals is Arrivals.ALL_AT_ONCE else 0
    if over_http and at_once > (files := allow_many_files()) - _OTHER_FILES:
        raise ConfigError(
            f"backend.client=http with workload=all_at_once: {at_once} requests hold a socket each, and {files} files "
            "may be open (ulimit -n); send fewer (trace.head), or take backend.client=direct"
        )
    try:
        server_config = ServerConfig(
            model=str(config.model.get("name", "model")),
            vocab_size=vocab_size,
            scheduler=scheduler,
            policy=config.policy,
            engine=engine,
            overlap=config.engine.overlap,
            tp=config.tp,
            tokenizers=int(settings["tokenizers"]),
            http=over_http,
            max_queued=len(workload.trace),  # a replay measures the queue, it is not turned away from it
            stall_s=stall_s,
            record_steps=_STEPS,
        )
        server = Server(server_config)
        server.start()
    except (ServerError, ServerDiedError) as error:
        raise ConfigError(f"backend={settings['name']}: the server did not start: {error}") from error
    scheduler = dataclasses.replace(scheduler, pages=server.pages)
    prompts = PromptMaker(workload.trace, vocab_size, workload.prompt_seed)
    client = Client(server.directory, server_config)
    reader = StepReader(server.directory, _STEPS)
    transport: Transport
    known_as: dict[int, int] = {}
    if over_http:
        endpoint = Endpoint(server.url, server_config.model, None, False, 3600.0, _OUR_FIELDS, ours=True)
        http = HttpTransport(endpoint, workload, prompts, server.check)
        transport, known_as = http, http.known_as
    else:
        foretell = bool(settings.get("foretell", True))
        transport = DirectTransport(server, client, workload, prompts, foretell=foretell)
    player = Player(workload, transport, float(settings["drop_after_s"]), keep_tokens=config.token_times)
    records: list[StepRecord] = []

    def watch(now: Progress) -> bool:
        records.extend(reader.receive(0.0))
        return progress(now)

    try:
        if at_once:
            client.gather(at_once)
        outcome = player.play(watch)
        while more := reader.receive(_LAST_RECORD_S):
            records.extend(more)
    finally:
        transport.close()
        reader.close()
        client.close()
        server.stop(10.0)
    steps = StepTable(scheduler.pages, player.start_s, known_as)
    for record in records:
        steps.take(record)
    return _record(player, workload, steps, scheduler, outcome)


def _record(
    player: Player, workload: Workload, steps: StepTable, scheduler: SchedulerConfig, outcome: Outcome
) -> RunRecord:
    return RunRecord(
        requests=player.log.columns(workload.warmup_s),
        steps=steps.columns(),
        decisions=steps.log.decisions(),
        gaps=player.times.gaps(),
        tokens=player.tokens(),
        complete=outcome.complete,
        failure=outcome.failure,
        server=msgspec.to_builtins(scheduler) | {"replayed_at": time.strftime("%Y-%m-%dT%H:%M:%S%z")},
    )

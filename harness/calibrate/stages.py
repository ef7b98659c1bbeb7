"""Of which requests and steps the host's stages are measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np

from harness.calibrate import host
from harness.cost.measured import HostPoint
from runtime.engine.engine import Engine
from runtime.scheduler import Scheduler
from runtime.server.config import ServerConfig

_TOKENS = (16, 256, 4096, 32768)  # of a prompt
_BATCHES = (1, 4, 16, 64, 256)  # sequences of a step
_REPEATS = 40  # requests or messages in a row
_ROUNDS = range(3)
_LOOP_PROMPTS = (16, 256, 2048)

Stages = dict[tuple[str, int, int, bool, bool], list[float]]
"""Seconds by stage, sequences and tokens, whether a CUDA graph was replayed, and overlap."""


def process_stages(config: ServerConfig, into: Stages) -> None:
    """What no engine is needed for: messages, tokenizer, detokenizer.

    Args:
        config: Of the server.
        into: Gets the seconds, as they are measured.
    """
    overlap, longest = config.overlap, config.scheduler.max_context
    for tokens in sorted({min(tokens, longest) for tokens in _TOKENS}):
        into["receive", 1, tokens, False, overlap] = host.receiving(config, tokens, _REPEATS)
        into["tokenize", 1, tokens, False, overlap] = [host.tokenizing(config, tokens, _REPEATS) for _ in _ROUNDS]
    for tokens in _batches(config.scheduler.max_running):
        into["detokenize", tokens, tokens, False, overlap] = [
            host.detokenizing(config, tokens, _REPEATS) for _ in _ROUNDS
        ]
        into["send", tokens, tokens, False, overlap] = [host.sending(config, tokens, _REPEATS) for _ in _ROUNDS]
    into["hop", 1, 1, False, overlap] = host.hopping(config, _REPEATS)


def loop_stages(
    config: ServerConfig,
    scheduler: Scheduler,
    engine: Engine[Any],
    into: Stages,
    *,
    launches: bool,
    room: int,
    seconds: float,
    watch: Callable[[str], None],
) -> None:
    """Planning, committing, and what lies between, with and without overlap.

    Args:
        config: Of the server.
        scheduler: Idle.
        engine: Under the loop.
        into: Gets the seconds, as they are measured.
        launches: Whether those of the engine's launches count.
        room: The most tokens of all sequences at once.
        seconds: That all may take, about.
        watch: Told how far it is, in a line.
    """
    begun_s, seed = time.monotonic(), 0
    batches = _batches(config.scheduler.max_running)
    for _, overlap, prompt, batch in product(_ROUNDS, (config.overlap, not config.overlap), _LOOP_PROMPTS, batches):
        longest = prompt + host.DECODES
        if batch * longest > room or longest > config.scheduler.max_context:
            continue
        if time.monotonic() - begun_s > seconds:
            return
        watch(f"host: the serving loop, {batch} x {prompt} tokens, overlap {'on' if overlap else 'off'}")
        seed += 1
        samples = host.looping(config, scheduler, engine, batch, prompt, overlap=overlap, seed=seed)
        for (stage, sequences, tokens, graph), taken_s in samples.items():
            if launches or stage != "launch":
                into.setdefault((stage, sequences, tokens, graph, overlap), []).extend(taken_s)


def points(stages: Stages) -> list[HostPoint]:
    """A median with its spread of each."""
    found = []
    for (stage, sequences, tokens, graph, overlap), seconds in sorted(stages.items()):
        q25, median, q75 = np.percentile(seconds, (25, 50, 75)).tolist()
        found.append(HostPoint(stage, sequences, tokens, graph, overlap, median, q75 - q25, len(seconds)))
    return found


def _batches(most: int) -> list[int]:
    return sorted({batch for batch in _BATCHES if batch < most} | {min(most, _BATCHES[-1])})

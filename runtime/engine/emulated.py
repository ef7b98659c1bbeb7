"""An engine without a device: a step takes the time that a cost function says, and tokens come out of a hash."""

from __future__ import annotations

import importlib
import time
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from runtime.engine.engine import Engine, StepResult, TokenLogprobs
from runtime.engine.params import SamplingParams
from runtime.engine.place import EnginePlace, LoadedEngine
from runtime.scheduler import Batch, Sequence

_MASK = (1 << 64) - 1


class EmulatedTicket(NamedTuple):
    """A step under way: when it ends on the monotonic clock, and what it will have sampled."""

    end_s: float
    result: StepResult


class EmulatedEngine(Engine[EmulatedTicket]):
    """Sleeps through steps.

    The token at a position is a hash of prompt and position, whatever batches and chunks led there; or it is the
    foretold one. Each is certain: its log-probability is 0.

    Args:
        step_seconds: Seconds of a step on the device, and when it starts there; asked once for each, in order.
        vocab_size: Token ids are below it.
    """

    def __init__(self, step_seconds: Callable[[Batch, float], float], vocab_size: int) -> None:
        self._step_seconds = step_seconds
        self._vocab_size = vocab_size
        self._device_free_s = 0.0
        self._keys: dict[int, int] = {}  # request id -> hash of its prompt
        self._logprobs: dict[int, int] = {}  # request id -> how many likeliest tokens it wants

    def admit(self, request_id: int, params: SamplingParams) -> None:
        if params.logprobs is not None:
            self._logprobs[request_id] = params.logprobs

    def forget(self, request_id: int) -> None:
        self._keys.pop(request_id, None)
        self._logprobs.pop(request_id, None)

    def launch(self, batch: Batch) -> EmulatedTicket:
        start_s = max(time.monotonic(), self._device_free_s)
        self._device_free_s = start_s + self._step_seconds(batch, start_s)
        sampled = batch.sampled()
        tokens = [self._token(sequence) for sequence in sampled]
        logprobs: list[TokenLogprobs | None] = []
        if self._logprobs:
            wanted = [self._logprobs.get(sequence.request_id) for sequence in sampled]
            logprobs = [
                None if count is None else TokenLogprobs(0.0, [token][:count], [0.0][:count])
                for count, token in zip(wanted, tokens, strict=True)
            ]
        return EmulatedTicket(self._device_free_s, StepResult(tokens, logprobs))

    def collect(self, ticket: EmulatedTicket) -> StepResult:
        left_s = ticket.end_s - time.monotonic()
        if left_s > 0:
            time.sleep(left_s)
        return ticket.result

    def _token(self, sequence: Sequence) -> int:
        position = sequence.total - 1
        if sequence.foretold_tokens is not None and position < len(sequence.tokens):
            return int(sequence.tokens[position])
        key = self._keys.get(sequence.request_id)
        if key is None:
            key = zlib.crc32(sequence.tokens[: sequence.prompt_tokens].tobytes())
            self._keys[sequence.request_id] = key
        return hashed_token(key, position, self._vocab_size)


def hashed_token(key: int, position: int, vocab_size: int) -> int:
    """The token at a position: splitmix64's finaliser over prompt key (CRC-32 of its int32 ids) and position."""
    x = (key * 0x9E3779B97F4A7C15 + position * 0xD1342543DE82EF95) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return (x ^ (x >> 31)) % vocab_size


def instantly(batch: Batch, start_s: float) -> float:
    """Steps that take no time: what is left is the serving stack's own."""
    del batch, start_s
    return 0.0


def constant(options: Mapping[str, Any]) -> Callable[[Batch, float], float]:
    """A cost function, for ``cost``: every step takes ``seconds``."""
    seconds = float(options["seconds"])

    def step_seconds(batch: Batch, start_s: float) -> float:
        del batch, start_s
        return seconds

    return step_seconds


def build(options: Mapping[str, Any], place: EnginePlace) -> LoadedEngine:
    """An engine from plain configuration.

    Args:
        options: ``vocab_size``; and, where steps take time, ``cost``: dotted path of a function that makes the cost
            function of its one argument, ``cost_options``.
        place: The worker's.

    Raises:
        ValueError: There is no such function.
    """
    step_seconds = _step_seconds(options)

    def start(table: npt.NDArray[np.int32]) -> EmulatedEngine:
        del table
        return EmulatedEngine(step_seconds, options["vocab_size"])

    return LoadedEngine(place.scheduler, start)


def _step_seconds(options: Mapping[str, Any]) -> Callable[[Batch, float], float]:
    path = options.get("cost")
    if path is None:
        return instantly
    module, _, name = path.rpartition(".")
    try:
        factory = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"engine.options.cost={path}: {error}") from error
    step_seconds: Callable[[Batch, float], float] = factory(options.get("cost_options", {}))
    return step_seconds

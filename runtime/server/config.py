"""What a server is made of: plain values, so that every process gets them as JSON."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import Any

import msgspec

from runtime.messages import API, DETOKENIZER, TOKENIZER, WORKER
from runtime.scheduler import SchedulerConfig


class ServerError(ValueError):
    """A server that cannot be started as asked; the message names the knob, the value and the way out."""


class EngineSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which engine the workers build.

    Attributes:
        factory: Dotted path of a function ``(options, place: runtime.engine.place.EnginePlace) -> LoadedEngine``.
        options: Its first argument.
    """

    factory: str
    options: dict[str, Any] = {}


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A server.

    Attributes:
        model: The name that clients ask for.
        vocab_size: Token ids are below it.
        tokenizer: Folder with a Hugging Face ``tokenizer.json``; None for the built-in byte-level tokenizer.
        scheduler: Sizes; the engine may have room for fewer pages.
        policy: Configuration of :func:`policies.build_policy`.
        engine: Which engine the workers build.
        overlap: A step is scheduled and launched before the one before it is committed.
        tp: Tensor-parallel ranks, a worker process each.
        tokenizers: Tokenizer processes.
        http: Whether there is an API server; without one, requests come by :class:`runtime.server.client.Client`.
        host: Address that the API server binds.
        port: Its port, 0 for a free one.
        api_key: What clients must send as a bearer token, or None.
        max_queued: Requests beyond ``scheduler.max_running`` before new ones get 429.
        stall_s: The server is ended when a process gives no sign of life for so long, or a step makes no progress (for
            which it has 0.05 s more for each of its tokens: a long prefill on a CPU is no stall).
        record_steps: Inbox that rank 0 sends a :class:`runtime.messages.StepRecord` a step to, or None.
    """

    model: str
    vocab_size: int
    scheduler: SchedulerConfig
    policy: dict[str, Any]
    engine: EngineSpec
    tokenizer: str | None = None
    overlap: bool = True
    tp: int = 1
    tokenizers: int = 1
    http: bool = True
    host: str = "127.0.0.1"
    port: int = 0
    api_key: str | None = None
    max_queued: int = 4096
    stall_s: float = 60.0
    record_steps: str | None = None

    def __post_init__(self) -> None:
        for name, low, high in (
            ("vocab_size", 1, 1 << 31),
            ("tp", 1, 64),
            ("tokenizers", 1, 64),
            ("port", 0, 65535),
            ("max_queued", 0, 1 << 31),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ServerError(f"{name}={value}: from {low} to {high}")
        if not 0 < self.stall_s < math.inf:
            raise ServerError(f"stall_s={self.stall_s:g}: above 0, e.g. 60")

    @property
    def processes(self) -> list[str]:
        """Names of the processes, in the order that a request flows through them."""
        return [
            *([API] if self.http else []),
            *(TOKENIZER.format(index) for index in range(self.tokenizers)),
            *(WORKER.format(rank) for rank in range(self.tp)),
            DETOKENIZER,
        ]


class Place(msgspec.Struct, frozen=True):
    """One process of a server: what it gets to start.

    Attributes:
        name: The process, and its inbox.
        directory: The server's private directory.
        config: The server.
    """

    name: str
    directory: str
    config: ServerConfig

    @property
    def path(self) -> Path:
        """The server's private directory."""
        return Path(self.directory)


def imported(path: str) -> Any:
    """What a dotted path names, e.g. ``package.module.function``.

    Raises:
        ServerError: There is no such thing.
    """
    module, _, attribute = path.rpartition(".")
    try:
        return getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ServerError(
            f"engine.factory={path}: {error}; name a function that can be imported, package.module.function"
        ) from error

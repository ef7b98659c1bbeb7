"""Servers with an engine that takes no time, or as long as a test says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import pytest

from runtime.scheduler import SchedulerConfig
from runtime.server.config import EngineSpec, ServerConfig
from runtime.server.launch import Server

POLICY = {
    "order": {"name": "fcfs"},
    "batching": {"name": "chunked", "step_tokens": 64},
    "reservation": {"name": "none"},
    "preemption": {"name": "newest"},
    "eviction": {"name": "lru"},
    "prediction": {"name": "max_tokens"},
}
SIZES = SchedulerConfig(pages=256, page_size=4, max_running=16, max_context=512)

Starter = Callable[..., AbstractContextManager[Server]]


@contextmanager
def started(*, step_s: float = 0.0, **settings: Any) -> Iterator[Server]:
    """A server of these settings."""
    options: dict[str, Any] = {"vocab_size": 128}
    if step_s:
        options |= {"cost": "runtime.engine.emulated.constant", "cost_options": {"seconds": step_s}}
    config: dict[str, Any] = {
        "model": "tiny",
        "vocab_size": 259,
        "scheduler": SIZES,
        "policy": POLICY,
        "engine": EngineSpec("runtime.engine.emulated.build", options),
        **settings,
    }
    server = Server(ServerConfig(**config), heard=lambda line: None)
    server.start()
    try:
        yield server
    finally:
        server.stop(10.0)


@pytest.fixture
def start() -> Starter:
    """Starts a server, as a context."""
    return started


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server that a module's tests share."""
    with started(tokenizers=2) as running:
        yield running


@pytest.fixture(scope="module")
def slow_server() -> Iterator[Server]:
    """The same, whose steps take 5 ms: there is time to come between."""
    with started(tokenizers=2, step_s=0.005) as running:
        yield running

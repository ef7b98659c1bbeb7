"""An engine factory whose device has room for fewer pages than asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from runtime.engine import emulated
from runtime.engine.memory import KvMemoryError
from runtime.engine.place import EnginePlace, LoadedEngine


def build(options: Mapping[str, Any], place: EnginePlace) -> LoadedEngine:
    """As :func:`runtime.engine.emulated.build`, with ``pages`` of room."""
    if not options["pages"]:
        raise KvMemoryError("no room for KV: raise engine.memory_fraction")
    loaded = emulated.build({"vocab_size": 128}, place)
    return LoadedEngine(replace(loaded.scheduler, pages=options["pages"]), loaded.start)

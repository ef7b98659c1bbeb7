"""A server whose device has less room than asked says so, and serves with what there is."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("uvicorn")
pytest.importorskip("torch")

from runtime.server.client import Client
from runtime.server.config import EngineSpec, ServerError

FACTORY = "tests.tiny.short_of_memory.build"


def test_the_server_has_the_pages_that_its_engine_has_room_for(start: Any) -> None:
    with start(engine=EngineSpec(FACTORY, {"pages": 7}), tp=2) as server:
        client = Client(server.directory, server.config)
        assert server.pages == 7
        assert client.gauges().pages == 7
        client.close()


def test_no_room_is_the_users_affair(start: Any) -> None:
    with (
        pytest.raises(ServerError, match=r"no room for KV: raise engine\.memory_fraction"),
        start(engine=EngineSpec(FACTORY, {"pages": 0})),
    ):
        pass

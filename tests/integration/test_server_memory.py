"""A server whose device has less room than asked says so, and serves with what there is."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("uvicorn")
pytest.importorskip("torch")

from runtime.engine.params import GREEDY
from runtime.messages import Request, TextPrompt
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


def test_without_max_tokens_an_output_takes_what_room_there_is(start: Any) -> None:
    with start(engine=EngineSpec(FACTORY, {"pages": 7}), tp=2, http=False) as server:
        client = Client(server.directory, server.config)
        client.send(Request(1, "client", TextPrompt("abc"), None, GREEDY, ignore_eos=True))
        ended = None
        while ended is None:
            server.check()
            ended = next((piece.ended for piece in client.receive(5.0) if piece.ended is not None), None)
        # Seven pages of four tokens, and the last token, whose KV is never needed.
        assert (ended.reason, ended.error, ended.output_tokens) == ("length", None, 7 * 4 + 1 - 3)
        client.close()

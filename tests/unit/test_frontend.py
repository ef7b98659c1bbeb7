"""The API server's side of the messages: who holds a place, and for how long."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("zmq")

from runtime.messages import API, Ended, Output, Piece
from runtime.scheduler import SchedulerConfig
from runtime.server.config import EngineSpec, Place, ServerConfig
from runtime.server.errors import ApiError
from runtime.server.frontend import Frontend
from runtime.server.mail import Outbox

SIZES = SchedulerConfig(pages=8, page_size=4, max_running=1, max_context=32)
CONFIG = ServerConfig(model="tiny", vocab_size=259, scheduler=SIZES, policy={}, engine=EngineSpec("none"), max_queued=1)
ENDED = Ended("length", None, 3, 1, 0, 1, 0, 0, 0.0, *[float("nan")] * 7)


def test_an_answer_that_its_client_is_slow_to_read_takes_no_ones_place(tmp_path: Path) -> None:
    async def run() -> None:
        frontend = Frontend(Place(API, str(tmp_path), CONFIG))
        frontend.listen()
        slow = frontend.open(2)
        with pytest.raises(ApiError, match="2 requests are being served or queued"):
            frontend.open(1)
        worker = Outbox(tmp_path)
        worker.send(
            API, Output([Piece(slow.first_id, "a", b"1234", [], None), Piece(slow.first_id, "", b"", [], ENDED)])
        )
        first, last = await slow.pieces()
        assert first.text == "a"
        assert last.ended is not None
        frontend.close(frontend.open(1))
        with pytest.raises(ApiError, match="1 requests are being served"):
            frontend.open(2)
        frontend.close(slow)
        frontend.close(frontend.open(2))
        worker.close()
        frontend.shut()

    asyncio.run(run())

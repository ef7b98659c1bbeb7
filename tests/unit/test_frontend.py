"""The API server's side of the messages: who holds a place, and for how long; and whether all is well."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("zmq")

from runtime.messages import API, Alive, Ended, Gauges, Output, Piece, Ping
from runtime.scheduler import SchedulerConfig
from runtime.server.config import EngineSpec, Place, ServerConfig
from runtime.server.errors import ApiError
from runtime.server.frontend import Frontend
from runtime.server.mail import Outbox
from runtime.server.pulse import Vigil

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


GAUGES = Gauges(1, 1, 2, 3, 8)
LONG_PREFILL: dict[str, Any] = {"tokens": 8192, "waited_s": 300.0, "gauges": GAUGES}  # of which 469 s are no hang


def health(tmp_path: Path, worker: dict[str, Any], answer: Gauges | None = None) -> Gauges:
    """What the API server says after a sign of life of rank 0, and once its patience is over an answer to its ping."""

    async def run() -> Gauges:
        frontend = Frontend(Place(API, str(tmp_path), CONFIG))
        frontend.listen()
        outbox = Outbox(tmp_path)
        outbox.send(API, Alive("worker.0", 7, **worker))
        asked = asyncio.create_task(frontend.gauges(patience_s=0.01))
        if answer is not None:
            assert not (await asyncio.wait([asked], timeout=0.2))[0]
            outbox.send(API, Ping(API, 0, answer))
        try:
            return await asyncio.wait_for(asked, 10.0)
        finally:
            outbox.close()
            frontend.shut()

    return asyncio.run(run())


def test_all_is_well_while_a_step_takes_no_longer_than_it_may(tmp_path: Path) -> None:
    assert health(tmp_path, LONG_PREFILL) == GAUGES


def test_a_step_that_the_launcher_would_end_the_server_for_is_a_hang(tmp_path: Path) -> None:
    with pytest.raises(ApiError, match=r"worker\.0: step 7 \(8 tokens in flight\) made no progress for 300") as raised:
        health(tmp_path, {**LONG_PREFILL, "tokens": 8})
    assert raised.value.status == 503


@pytest.mark.parametrize("tokens", [1, 8, 4700, 4900, 8192])
def test_launcher_and_api_server_judge_alike(tmp_path: Path, tokens: int) -> None:
    """The same signs of life, 300 s into a step."""
    step = {**LONG_PREFILL, "tokens": tokens}
    vigil = Vigil(CONFIG.processes, CONFIG.stall_s, 0.0)
    for name in CONFIG.processes:
        vigil.heard(Alive(name, 7, **step) if name == "worker.0" else Alive(name), 0.0)
    if vigil.hang(0.0) is None:
        assert health(tmp_path, step) == GAUGES
    else:
        with pytest.raises(ApiError, match="made no progress"):
            health(tmp_path, step)


def test_without_a_step_in_flight_the_answer_is_waited_for(tmp_path: Path) -> None:
    """A tokenizer may take long over a long text: how the scheduler stood before is not how it stands."""
    fresh = Gauges(0, 0, 8, 0, 8)
    assert health(tmp_path, {}, fresh) == fresh

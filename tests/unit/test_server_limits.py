"""What a client may send, how long it may take, and how much of a server it can hold."""

from __future__ import annotations

import asyncio
import resource
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("zmq")

import uvicorn
from starlette.exceptions import HTTPException

from runtime.messages import API, Abort, Ended, Gauges, Piece, ToTokenizer
from runtime.open_files import allow_many_files
from runtime.scheduler import SchedulerConfig
from runtime.server import limits, respond
from runtime.server.answers import CompletionShape
from runtime.server.api import _bound
from runtime.server.config import EngineSpec, Place, ServerConfig
from runtime.server.frontend import Frontend
from runtime.server.limits import BodyLimit, Connection
from runtime.server.mail import Inbox
from runtime.server.meters import Meters
from runtime.server.protocol import CompletionRequest
from runtime.server.respond import AnswerResponse

SIZES = SchedulerConfig(pages=8, page_size=4, max_running=1, max_context=32)
CONFIG = ServerConfig(model="tiny", vocab_size=259, scheduler=SIZES, policy={}, engine=EngineSpec("none"))


async def never() -> Any:
    await asyncio.Event().wait()


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_takes_nothing_is_given_up(stream: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds the connection, and what is written to it never goes."""
    monkeypatch.setattr(respond, "_PATIENCE_S", 0.01)
    ended = Ended("length", None, 3, 1, 0, 1, 0, 0, 0.0, *[float("nan")] * 7)
    body = CompletionRequest(model="tiny", prompt="x", n=2, stream=stream)

    async def send(message: Any) -> None:
        del message
        await never()

    async def run() -> None:
        frontend = Frontend(Place(API, str(tmp_path), CONFIG))
        frontend.listen()
        tokenizer = Inbox(tmp_path, "tokenizer.0", ToTokenizer)
        answer = frontend.open(2)
        meters = Meters()
        answer.put(Piece(answer.first_id, "a", b"1234", [], None))
        for choice in range(0 if stream else 2):
            answer.put(Piece(answer.first_id + choice, "", b"", [], ended))
        response = AnswerResponse(frontend, answer, 2, body, CompletionShape(), meters)
        await asyncio.wait_for(response({}, never, send), 5)
        assert b'servetwin_requests_total{status="aborted"} 1.0' in meters.text(Gauges(0, 0, 8, 0, 8))
        aborts = tokenizer.wait(5.0) if stream else []
        assert aborts == ([Abort(answer.first_id), Abort(answer.first_id + 1)] if stream else [])
        frontend.shut()
        tokenizer.close()

    asyncio.run(run())


def receiving(*parts: dict[str, Any]) -> Callable[[], Awaitable[Any]]:
    left = list(parts)

    async def receive() -> Any:
        return left.pop(0) if left else await never()

    return receive


async def reads_all(scope: Any, receive: Any, send: Any) -> None:
    del scope, send
    while (await receive()).get("more_body"):
        pass
    async with asyncio.timeout(0.05):  # then it waits for the client to go, however long that is
        await receive()


def test_a_body_that_does_not_go_on_gets_408() -> None:
    limit = BodyLimit(reads_all, 100, patience_s=0.01)
    begun = {"body": b"half", "more_body": True}
    with pytest.raises(HTTPException, match=r"4 bytes of the body came, and for 0\.01 s nothing more") as raised:
        asyncio.run(limit({}, receiving(begun), never))
    assert raised.value.status_code == 408
    with pytest.raises(TimeoutError):
        asyncio.run(limit({}, receiving(begun, {"body": b"", "more_body": False}), never))
    with pytest.raises(HTTPException, match="longer than 100 bytes"):
        asyncio.run(limit({}, receiving(begun, {"body": b"x" * 99, "more_body": True}), never))


def test_a_body_that_came_while_the_event_loop_was_busy_is_taken() -> None:
    """A thousand bodies that are parsed at once take longer than one may take to come."""

    async def run() -> None:
        here, there = socket.socketpair()
        came = asyncio.Event()
        asyncio.get_running_loop().add_reader(here, came.set)

        async def receive() -> Any:
            await came.wait()
            return {"body": b"x", "more_body": False}

        taken = []

        async def takes_one(scope: Any, receive: Any, send: Any) -> None:
            del scope, send
            taken.append(await receive())

        waiting = asyncio.create_task(BodyLimit(takes_one, 100, patience_s=0.01)({}, receive, never))
        await asyncio.sleep(0)
        there.send(b"x")
        time.sleep(0.02)  # a step of the loop that is longer than the patience
        await waiting
        assert taken == [{"body": b"x", "more_body": False}]
        asyncio.get_running_loop().remove_reader(here)
        here.close()
        there.close()

    asyncio.run(run())


async def answers(scope: Any, receive: Any, send: Any) -> None:
    del scope, receive
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body", "body": b""})


GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "answered"),
    [
        (b"GET / HTT", b""),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * (1 << 20), b""),
        (b"\x16\x03\x01 no HTTP\r\n\r\n", b"HTTP/1.1 400"),
    ],
    ids=["half a head", "an endless head", "no HTTP"],
)
@pytest.mark.parametrize("first", [None, GET], ids=["at once", "after a request"])
def test_a_connection_without_a_request_is_closed(
    first: bytes | None, sent: bytes, answered: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "_PATIENCE_S", 0.05)

    async def run() -> bytes:
        config = uvicorn.Config(answers, http=Connection, lifespan="off", log_level="critical", timeout_keep_alive=60)
        server = uvicorn.Server(config)
        bound = _bound("127.0.0.1", 0)
        serving = asyncio.create_task(server.serve(sockets=[bound]))
        while not server.started:
            await asyncio.sleep(0.001)
        reader, writer = await asyncio.open_connection(*bound.getsockname())
        try:
            if first is not None:
                writer.write(first)
                assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 204")
            writer.write(sent)
            return await asyncio.wait_for(reader.read(), 5)  # to its end
        except ConnectionError:
            return b""
        finally:
            writer.close()
            server.should_exit = True
            await serving

    got = asyncio.run(run())
    assert got.startswith(answered) if answered else not got.startswith(b"HTTP/1.1 2")


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="the kernel has no such option")
def test_the_kernel_ends_connections_that_take_nothing() -> None:
    """A process cannot: closing waits for what is still to be sent."""
    with _bound("127.0.0.1", 0) as listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 60_000
        accepted.close()


def test_the_limit_on_open_files_is_raised_as_far_as_it_may_be() -> None:
    before = soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 512), hard))
        allowed = allow_many_files()
        raised = resource.getrlimit(resource.RLIMIT_NOFILE)
        assert raised == (allowed, hard)
        assert allowed == 65_536 or allowed == hard < 65_536
        assert allow_many_files() == allowed
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_limit_that_cannot_be_raised_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(kind: int, limits: tuple[int, int]) -> None:
        raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (256, resource.RLIM_INFINITY))
    monkeypatch.setattr(resource, "setrlimit", refuse)
    assert allow_many_files() == 256

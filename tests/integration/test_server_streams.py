"""Many streams at once, some cut: the others get exactly their tokens, and KV returns to empty."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import urlsplit

import pytest

pytest.importorskip("uvicorn")
httpx = pytest.importorskip("httpx")

from runtime.server.launch import Server  # noqa: E402

STREAMS = 64
TOKENS = 40


async def stream(server: Server, number: int, cut_after: int | None) -> str | None:
    """A streamed completion's text, or None where the connection was cut after so many chunks."""
    url = urlsplit(server.url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    body = json.dumps(
        {"model": "tiny", "prompt": f"{number:03} tell me more", "max_tokens": TOKENS, "stream": True}
    ).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
    writer.write(head.encode() + b"\r\n\r\n" + body)
    await writer.drain()
    text, chunks = "", 0
    try:
        while cut_after is None or chunks < cut_after:
            line = await reader.readline()
            if line == b"data: [DONE]\n":
                return text
            if line.startswith(b"data: "):
                chunks += 1
                text += json.loads(line[6:])["choices"][0]["text"]
        return None
    finally:
        writer.close()


async def empty(client: Any) -> dict[str, int]:
    """The server's health once nothing runs in it."""
    while True:
        health = (await client.get("/health")).json()
        if not health["running"] and not health["waiting"] and not health["pages_running"]:
            assert health["pages_free"] + health["pages_cached"] == health["pages"]
            return dict(health)
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("which", ["server", "slow_server"])
def test_cut_streams_leave_the_others_alone_and_their_kv_behind(which: str, request: pytest.FixtureRequest) -> None:
    server: Server = request.getfixturevalue(which)

    async def run() -> None:
        async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=30) as client:
            alone = [await stream(server, number, None) for number in range(3)]
            # A third is cut: at once, while queued (16 run), in prefill, and after ever more tokens.
            cuts = [number // 3 if number % 3 == 0 else None for number in range(STREAMS)]
            texts = await asyncio.gather(*(stream(server, number, cut) for number, cut in enumerate(cuts)))
            assert [text is None for text in texts] == [cut is not None for cut in cuts]
            assert all(text is None or len(text) == TOKENS for text in texts)
            assert texts[1:3] == alone[1:3]
            await asyncio.wait_for(empty(client), 20)

    asyncio.run(run())


def test_a_stream_is_finished_though_the_server_is_to_stop(start: Any) -> None:
    async def run(server: Server) -> None:
        url = urlsplit(server.url)
        under_way = [asyncio.create_task(stream(server, number, None)) for number in range(4)]
        idle, begun = [await asyncio.open_connection(url.hostname, url.port) for _ in range(2)]
        begun[1].write(b"POST /v1/completions HT")  # neither is a request, and nobody waits for them
        while True:
            async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
                if (await client.get("/health")).json()["running"] == 4:
                    break
        await asyncio.to_thread(server.stop, 20.0)
        assert [len(text or "") for text in await asyncio.gather(*under_way)] == [TOKENS] * 4
        for _, writer in (idle, begun):
            writer.close()
        with pytest.raises(ConnectionError):
            await asyncio.open_connection(url.hostname, url.port)

    with start(step_s=0.02) as server:
        asyncio.run(run(server))


def test_a_client_that_leaves_before_a_whole_answer_is_aborted(slow_server: Server) -> None:
    async def run() -> None:
        async with httpx.AsyncClient(base_url=slow_server.url, trust_env=False, timeout=30) as client:
            body = {"model": "tiny", "prompt": "Long ago", "max_tokens": 500, "n": 2}
            with pytest.raises(httpx.ReadTimeout):
                await client.post("/v1/completions", json=body, timeout=0.2)
            await asyncio.wait_for(empty(client), 1.5)  # 500 steps would take 2.5 s

    asyncio.run(run())

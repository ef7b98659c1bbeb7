"""How late our HTTP client is by itself: send lag against a mock server in another process.

    python tests/benchmarks/client_lag.py [TRACE] [REQUESTS] [SPEED] [STEP_MS]

Replays the first requests of a trace (mooncake_conversation, 200, at its own rate) against a server that answers every
completion with as many tokens as it asks for, those of all requests together at the end of each step (10 ms), as an
engine does. Prints the client's lateness, and beside it how late a process that does nothing but sleep woke meanwhile:
on a machine that is so busy, no client can be less late.
"""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time

import numpy as np
from aiohttp import web

_CHUNK = b'data: {"choices":[{"index":0,"text":"x","finish_reason":null}]}\n\n'
_LAST = b'data: {"choices":[{"index":0,"text":"x","finish_reason":"length"}]}\n\ndata: [DONE]\n\n'
_NAP_S = 0.02
_PORT = 18431


def mock(step_s: float) -> None:
    """Serve until killed."""

    async def complete(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        for _ in range(body["max_tokens"] - 1):
            await asyncio.sleep(step_s - time.monotonic() % step_s)
            await answer.write(_CHUNK)
        await answer.write(_LAST)
        return answer

    app = web.Application(client_max_size=1 << 28)
    app.router.add_post("/v1/completions", complete)
    web.run_app(app, host="127.0.0.1", port=_PORT, print=lambda *_: print("ready", flush=True))


def sleeper() -> None:
    """Sleep until interrupted, then print how late each waking was, ms."""
    late_ms = []
    print("ready", flush=True)
    try:
        while True:
            due_s = time.monotonic() + _NAP_S
            time.sleep(_NAP_S)
            late_ms.append((time.monotonic() - due_s) * 1e3)
    except KeyboardInterrupt:
        print(*late_ms)


def measure(name: str, requests: int, speed: float, step_s: float) -> None:
    """Replay and print."""
    from harness.live.http import Endpoint, HttpTransport
    from harness.live.player import Player
    from harness.progress import Progress
    from harness.workload import Workload
    from traces import transforms
    from traces.load import load
    from traces.prompts import PromptMaker

    trace = transforms.scale_rate(transforms.head(load(name), requests), speed)
    workload = Workload(trace)
    server, nap = _other("--mock", str(step_s)), _other("--sleep")
    try:
        endpoint = Endpoint(f"http://127.0.0.1:{_PORT}", "mock", None, False, 600.0, {})
        transport = HttpTransport(endpoint, workload, PromptMaker(trace, 151_936))
        player = Player(workload, transport, 60.0)
        in_flight = [0]

        def watch(now: Progress) -> bool:
            in_flight.append(now.in_flight)
            return True

        outcome = player.play(watch)
        transport.close()
        nap.send_signal(signal.SIGINT)
        slept, _ = nap.communicate()
    finally:
        server.kill()
        nap.kill()
    lag_ms = (player.log.times["sent_s"] - player.log.arrival_s) * 1e3
    rate = len(trace) / trace.arrival_s[-1]
    print(f"{name}, {len(trace)} requests, {rate:.1f} req/s, {trace.prompt_tokens.mean():,.0f} prompt tokens")
    print(f"{max(in_flight)} in flight at most, {player.times.tokens} tokens, complete: {outcome.complete}")
    for who, late_ms in (("client", lag_ms), ("a process that sleeps", np.array(slept.split(), float))):
        p50, p99, most = np.percentile(late_ms, (50, 99, 100))
        print(f"{who}: late p50 {p50:.2f} ms, p99 {p99:.2f} ms, max {most:.2f} ms")


def _other(*words: str) -> subprocess.Popen[str]:
    """Another process of this script, once it is ready."""
    process = subprocess.Popen([sys.executable, __file__, *words], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    return process


if __name__ == "__main__":
    words = sys.argv[1:]
    if words[:1] == ["--mock"]:
        mock(float(words[1]))
    elif words[:1] == ["--sleep"]:
        sleeper()
    else:
        given = dict(enumerate(words))
        measure(
            given.get(0, "mooncake_conversation"),
            int(given.get(1, 200)),
            float(given.get(2, 1.0)),
            float(given.get(3, 10.0)) / 1e3,
        )

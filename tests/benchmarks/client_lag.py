"""How late our HTTP client is by itself: send lag against a mock server in another process.

    python tests/benchmarks/client_lag.py [TRACE] [REQUESTS] [SPEED]

Replays the first requests of a trace (mooncake_conversation, 200, at its own rate) against a server that answers every
completion with the trace's tokens, 10 ms apart, and prints the client's lateness.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys

import numpy as np
from aiohttp import web

_GAP_S = 0.01
_CHUNK = b'data: {"choices":[{"index":0,"text":"x","finish_reason":null}]}\n\n'
_LAST = b'data: {"choices":[{"index":0,"text":"x","finish_reason":"length"}]}\n\ndata: [DONE]\n\n'


async def _complete(request: web.Request) -> web.StreamResponse:
    body = await request.json()
    answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await answer.prepare(request)
    for _ in range(body["max_tokens"] - 1):
        await asyncio.sleep(_GAP_S)
        await answer.write(_CHUNK)
    await answer.write(_LAST)
    return answer


def mock(port: int) -> None:
    """Serve until killed."""
    app = web.Application(client_max_size=1 << 28)
    app.router.add_post("/v1/completions", _complete)
    web.run_app(app, host="127.0.0.1", port=port, print=lambda *_: print("ready", flush=True))


def measure(name: str, requests: int, speed: float) -> None:
    """Replay and print."""
    from harness.live.http import Endpoint, HttpTransport
    from harness.live.player import Player
    from harness.workload import Workload
    from traces import transforms
    from traces.load import load
    from traces.prompts import PromptMaker

    port = 18431
    server = subprocess.Popen([sys.executable, __file__, "--mock", str(port)], stdout=subprocess.PIPE)
    try:
        assert server.stdout is not None
        server.stdout.readline()
        trace = transforms.scale_rate(transforms.head(load(name), requests), speed)
        workload = Workload(trace)
        endpoint = Endpoint(f"http://127.0.0.1:{port}", "mock", None, False, 600.0, {})
        transport = HttpTransport(endpoint, workload, PromptMaker(trace, 151_936))
        player = Player(workload, transport, 60.0)
        outcome = player.play(lambda _: True)
        transport.close()
    finally:
        server.kill()
    lag_s = player.log.times["sent_s"] - player.log.arrival_s
    p50, p99 = np.percentile(lag_s, (50, 99)) * 1e3
    print(f"{name}, {len(trace)} requests, {len(trace) / trace.arrival_s[-1]:.1f} req/s, complete: {outcome.complete}")
    print(f"send lag p50 {p50:.2f} ms, p99 {p99:.2f} ms, max {lag_s.max() * 1e3:.2f} ms")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--mock"]:
        mock(int(sys.argv[2]))
    else:
        words = sys.argv[1:]
        measure(
            words[0] if words else "mooncake_conversation",
            int(words[1]) if len(words) > 1 else 200,
            float(words[2]) if len(words) > 2 else 1.0,
        )

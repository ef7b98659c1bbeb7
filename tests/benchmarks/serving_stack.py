"""Tokens per second through the whole serving stack, with an engine that takes no time.

    python tests/benchmarks/serving_stack.py [STREAMS] [OUTPUT_TOKENS] [direct|http]

Prints the rate, and the CPU seconds of each process: where the time goes. The HTTP client reads raw sockets, so that it
takes little of the machine it measures.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

from runtime.engine.params import GREEDY
from runtime.messages import Request, TextPrompt
from runtime.scheduler import SchedulerConfig
from runtime.server.client import Client
from runtime.server.config import EngineSpec, ServerConfig
from runtime.server.launch import Server

ROUNDS = 4
POLICY = {
    "order": {"name": "fcfs"},
    "batching": {"name": "prefill_first"},
    "reservation": {"name": "full"},
    "preemption": {"name": "newest"},
    "eviction": {"name": "lru"},
    "prediction": {"name": "max_tokens"},
}


def main() -> None:
    """Measure and print."""
    streams, output_tokens = int((sys.argv[1:2] or ["64"])[0]), int((sys.argv[2:3] or ["256"])[0])
    kind = (sys.argv[3:4] or ["http"])[0]
    config = ServerConfig(
        model="none",
        vocab_size=259,
        scheduler=SchedulerConfig(pages=65_536, page_size=16, max_running=256, max_context=8192),
        policy=POLICY,
        engine=EngineSpec("runtime.engine.emulated.build", {"vocab_size": 128}),
        http=kind == "http",
    )
    with Server(config) as server:
        before = {name: cpu_s(pid) for name, pid in server.pids.items()}
        own_s, begun_s = time.process_time(), time.perf_counter()
        if kind == "http":
            tokens = asyncio.run(stream_all(server.url, streams, output_tokens))
        else:
            tokens = receive_all(server, streams, output_tokens)
        wall_s = time.perf_counter() - begun_s
        print(f"{kind}: {streams} streams x {output_tokens} tokens, {ROUNDS} rounds: {tokens / wall_s:,.0f} tokens/s")
        for name, pid in server.pids.items():
            used_s = cpu_s(pid) - before[name]
            print(f"  {name:12} {used_s:6.2f} CPU s, {used_s / tokens * 1e6:6.1f} us a token")
        used_s = time.process_time() - own_s
        print(f"  {'client':12} {used_s:6.2f} CPU s, {used_s / tokens * 1e6:6.1f} us a token")


def cpu_s(pid: int) -> float:
    """CPU seconds of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def stream_all(url: str, streams: int, output_tokens: int) -> int:
    """All rounds over HTTP; returns the chunks of text that came."""
    host, port = urlsplit(url).hostname or "", urlsplit(url).port or 0

    async def stream(number: int) -> int:
        body = json.dumps(
            {
                "model": "none",
                "prompt": f"Once upon a time there were {number}",
                "max_tokens": output_tokens,
                "stream": True,
            }
        ).encode()
        reader, writer = await asyncio.open_connection(host, port, limit=1 << 20)
        writer.write(
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
            b"Content-Length: %d\r\n\r\n" % len(body) + body
        )
        chunks = 0
        while data := await reader.read(1 << 16):
            chunks += data.count(b'"text":')
        writer.close()
        return chunks - 1  # the last one only says that it is

    total = 0
    for _ in range(ROUNDS):
        total += sum(await asyncio.gather(*(stream(number) for number in range(streams))))
    return total


def receive_all(server: Server, streams: int, output_tokens: int) -> int:
    """All rounds without HTTP; returns the tokens that came."""
    client = Client(server.directory, server.config)
    total = 0
    for _ in range(ROUNDS):
        for number in range(streams):
            prompt = TextPrompt(f"Once upon a time there were {number}")
            client.send(Request(number, client.name, prompt, output_tokens, GREEDY))
        left = streams
        while left:
            server.check()
            for piece in client.receive(1.0):
                total += len(piece.tokens) // 4
                left -= piece.ended is not None
    client.close()
    return total


if __name__ == "__main__":
    main()

r"""The real server over HTTP under load: ``python -m tests.benchmarks.gpu_http [--help] [OVERRIDE ...]``.

One server, two phases: a trace at a rate (every request accounted for, the client on time), and saturation by clients
of whom many go away (no leak of pages, host or GPU memory). What a phase found is printed as soon as it ends, and
written to --out. Overrides are those of ``harness run``; on a GPU for example

    python -m tests.benchmarks.gpu_http --phases replay --seconds 240 --rate 1.3 --out out model=qwen3_8b \
        hardware=h100 ++backend.device=cuda engine.page_size=16 engine.max_context=40960 engine.pages=20480

The rate is to be a share of what the server bears for long. Its twin tells that in seconds, with every client waiting
for its answer (here 1.39 requests/s, of which 1.3 are 93 %):

    python -m harness run cost=profile trace=mooncake_conversation trace.head=3000 trace.sample=1/2 workload=closed \
        trace.cap_total_tokens=40960 policy=vllm model=qwen3_8b hardware=h100 engine.page_size=16 \
        engine.max_context=40960 engine.pages=20480
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import msgspec
import numpy as np

from harness.backends.runtime import runtime_of
from harness.compose import compose
from harness.experiment import load_at_own_rate
from harness.live.http import Endpoint, HttpTransport
from harness.live.player import Player
from harness.metrics import schema, summary
from harness.metrics.schema import STATUSES
from harness.metrics.slo import Slo
from harness.progress import Progress
from harness.report.console import final_block
from harness.workload import Workload
from runtime.server.client import Client
from runtime.server.config import ServerConfig
from runtime.server.launch import Server
from traces import transforms
from traces.prompts import PromptMaker
from traces.schema import Trace

ON_TIME_MS = 5.0  # p99 of the client's lateness
LOOK_EVERY_S = 2.0
CPU = ["model=tiny", "hardware=cpu", "engine.page_size=16", "engine.max_running=16", "engine.max_context=512"]


def main() -> int:
    """Serve, load, print.

    Returns:
        1 where something did not hold.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help=f"without any: {' '.join(CPU)}")
    parser.add_argument("--phases", nargs="+", choices=list(PHASES), default=list(PHASES), help="of these (both)")
    parser.add_argument("--out", type=Path, help="directory that gets http.json and the tables as http.md")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each phase (60)")
    parser.add_argument("--rate", type=float, default=20.0, help="requests a second of the replay (20); see above")
    parser.add_argument("--cap", type=int, nargs=2, default=None, help="most prompt and output tokens of a request")
    arguments = parser.parse_intermixed_args()
    overrides = arguments.overrides or CPU
    caps = arguments.cap or (None if arguments.overrides else (300, 30))
    config = compose(["backend=runtime", "trace=mooncake_conversation", "policy=vllm", *overrides])
    runtime = runtime_of(config)
    trace = load_at_own_rate(config.trace)
    context = runtime.scheduler.max_context
    prompt, output = caps or (None, None)
    trace = transforms.cap_lengths(trace, prompt, output, total=context)
    server = Server(
        ServerConfig(
            model="model",
            vocab_size=runtime.vocab_size,
            scheduler=runtime.scheduler,
            policy=config.policy,
            engine=runtime.engine,
            overlap=config.engine.overlap,
            tp=config.tp,
            tokenizers=2,
            max_queued=len(trace),
        )
    )
    begun_s = time.monotonic()
    with server:
        print(f"started in {time.monotonic() - begun_s:.1f} s: {server.pages} pages of {runtime.scheduler.page_size}")
        load = Load(server, runtime.vocab_size, trace, arguments.rate, arguments.seconds)
        report = Report(arguments.out)
        for phase in arguments.phases:
            try:
                report.add(phase, PHASES[phase](load))
            except Exception as error:  # the other phase is worth having
                traceback.print_exc()
                report.add(phase, [Finding(f"{phase} came to its end", False, f"{type(error).__name__}: {error}")])
    return 0 if report.fine else 1


class Load(NamedTuple):
    """A server, and what it is to bear: a trace at so many requests a second, each phase so many seconds."""

    server: Server
    vocab_size: int
    trace: Trace
    rate: float
    seconds: float


class Finding(NamedTuple):
    """A line of the result: whether it holds, where it is a claim, and its figures."""

    what: str
    holds: bool | None
    figures: str


class Report:
    """Findings by phase, printed and written as they come."""

    def __init__(self, out: Path | None) -> None:
        self._out = out
        self._phases: dict[str, list[Finding]] = {}

    @property
    def fine(self) -> bool:
        """Whether all holds that was claimed."""
        return all(finding.holds is not False for findings in self._phases.values() for finding in findings)

    def add(self, phase: str, findings: list[Finding]) -> None:
        """A phase has ended."""
        self._phases[phase] = findings
        verdicts = {True: "yes", False: "**no**", None: ""}
        lines = [f"| {phase} | | holds |", "|---|---|---|"]
        lines += [f"| {what} | {figures} | {verdicts[holds]} |" for what, holds, figures in findings]
        print(*lines, sep="\n", flush=True)
        if self._out is not None:
            self._out.mkdir(parents=True, exist_ok=True)
            found = {name: [finding._asdict() for finding in phase] for name, phase in self._phases.items()}
            (self._out / "http.json").write_text(json.dumps(found, indent=1))
            with (self._out / "http.md").open("a") as file:
                file.write("\n".join(lines) + "\n\n")


def play(
    server: Server, vocab_size: int, workload: Workload, watch: Callable[[Progress], bool] = lambda _: True
) -> Player:
    """Replay a workload."""
    prompts = PromptMaker(workload.trace, vocab_size, workload.prompt_seed)
    endpoint = Endpoint(server.url, "model", None, False, 3600.0, {"ignore_eos": True, "return_moments": True})
    transport = HttpTransport(endpoint, workload, prompts, server.check)
    player = Player(workload, transport, 120.0)
    try:
        outcome = player.play(watch)
    finally:
        transport.close()
    if outcome.failure:
        print(f"FAILED: {outcome.failure}")
    return player


def replay(load: Load) -> list[Finding]:
    """The trace at a rate: every request accounted for, the client on time."""
    server, vocab_size, trace, rate, seconds = load
    scaled = transforms.at_rate(transforms.head(transforms.sample(trace, "1/2"), round(rate * seconds)), rate)
    print(f"replay: {len(scaled)} requests at {rate:.2f} requests/s for {seconds:.0f} s")
    told = [0.0]

    def watch(now: Progress) -> bool:
        if time.monotonic() - told[0] > 15.0:
            told[0] = time.monotonic()
            ttft_s = f", TTFT p99 {now.ttft_p99_s:.2f} s" if now.ttft_p99_s is not None else ""
            print(f"  {now.clock_s:6.1f} s  {now.ended} of {now.requests} ended{ttft_s}", flush=True)
        return True

    player = play(server, vocab_size, Workload(scaled), watch)
    requests = schema.complete_requests(player.log.columns(0.0))
    result = summary.summarize(requests, gaps=player.times.gaps(), slo=Slo("none"), environment={}, complete=True)
    print(final_block(result))
    counts = Counter(STATUSES[code] for code in requests["status"].tolist())
    lag_s = requests["send_lag_s"][np.isfinite(requests["send_lag_s"])]
    p50_ms, p99_ms, most_ms = (np.percentile(lag_s, (50, 99, 100)) * 1e3).tolist() if len(lag_s) else [np.nan] * 3
    late = f"lateness p50 {p50_ms:.2f} ms, p99 {p99_ms:.2f} ms, max {most_ms:.2f} ms"
    metrics, throughput = result["metrics"], result["throughput"]
    return [
        Finding("every request ended ok", counts == {"ok": len(scaled)}, f"{dict(counts)} of {len(scaled)}"),
        Finding("client on time", p99_ms < ON_TIME_MS, late),
        Finding(
            "offered", None, f"{rate:.2f} requests/s for {seconds:.0f} s, {scaled.prompt_tokens.mean():,.0f} tokens"
        ),
        Finding("served", None, f"{throughput['requests_per_s']:.2f} requests/s"),
        *(
            Finding(name.removesuffix("_s").upper(), None, f"p50 {spread['p50']:.3f} s, p99 {spread['p99']:.3f} s")
            for name, spread in ((name, metrics[name]) for name in ("ttft_s", "tpot_s", "e2e_s"))
            if spread["p50"] is not None
        ),
    ]


class Look(NamedTuple):
    """The server at one time: pages in use, requests, memory in MB."""

    time_s: float
    used_pages: int
    running: int
    waiting: int
    host_mb: float
    gpu_mb: float

    def __str__(self) -> str:
        return (
            f"{self.time_s:7.1f} s  {self.used_pages:8d} pages used  {self.running:4d} running "
            f"{self.waiting:5d} waiting  {self.host_mb:9.1f} MB host  {self.gpu_mb:9.1f} MB GPU"
        )


def saturate(load: Load) -> list[Finding]:
    """More clients than the server admits, of whom a third go away at any time; then nothing may be left."""
    server, vocab_size, seconds = load.server, load.vocab_size, load.seconds
    concurrency = server.config.scheduler.max_running * 3 // 2
    print(f"saturation: {concurrency} clients for {seconds:.0f} s, a third of the requests aborted")
    looks: list[Look] = []
    done = threading.Event()
    watcher = threading.Thread(target=watch_server, args=(server, looks, done), daemon=True)
    watcher.start()
    counts = asyncio.run(clients(server, vocab_size, concurrency, seconds))
    done.set()
    watcher.join()
    client = Client(server.directory, server.config, name="drain")
    for _ in range(100):
        gauges = client.gauges()
        if not gauges.running and not gauges.waiting:
            break
        time.sleep(0.2)
    client.close()
    busy = looks[len(looks) // 4 :]
    half = busy[: len(busy) // 2 + 1], busy[len(busy) // 2 :]
    early, late = (np.array([[look.host_mb, look.gpu_mb] for look in part]).mean(axis=0) for part in half)
    host, gpu = (f"{a:,.0f} MB, then {b:,.0f} MB on average" for a, b in zip(early, late, strict=True))
    return [
        Finding("no request failed", not counts["error"], str(dict(counts))),
        Finding("nobody left", not gauges.running and not gauges.waiting, ""),
        Finding("no page lost", gauges.pages_free + gauges.pages_cached == gauges.pages, str(gauges)),
        Finding("host memory steady", bool(late[0] < early[0] * 1.03 + 10), host),
        Finding("GPU memory steady", bool(late[1] < early[1] * 1.01 + 1), gpu),
    ]


def watch_server(server: Server, looks: list[Look], done: threading.Event) -> None:
    """Look at the server now and then."""
    client = Client(server.directory, server.config, name="watch")
    start_s = told_s = time.monotonic()
    while not done.wait(LOOK_EVERY_S):
        gauges = client.gauges(60.0)
        used = gauges.pages - gauges.pages_free - gauges.pages_cached
        host = sum(resident_mb(pid) for pid in server.pids.values())
        now_s = time.monotonic()
        looks.append(Look(now_s - start_s, used, gauges.running, gauges.waiting, host, gpu_mb()))
        if now_s - told_s > 10.0 or len(looks) == 1:
            told_s = now_s
            print(f"  {looks[-1]}", flush=True)
    client.close()


async def clients(server: Server, vocab_size: int, concurrency: int, seconds: float) -> Counter[str]:
    """Ask and go away until the time is over."""
    chance, counts = random.Random(0), Counter[str]()
    end_s = time.monotonic() + seconds
    longest = server.config.scheduler.max_context // 2
    shared = [[chance.randrange(vocab_size) for _ in range(longest // 2)] for _ in range(8)]
    timeout = aiohttp.ClientTimeout(total=600.0)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:

        async def client() -> None:
            while time.monotonic() < end_s:
                patience = chance.randrange(40) if chance.random() < 1 / 3 else None
                outcome = await ask(session, server.url, body(), patience)
                counts[outcome] += 1

        def body() -> bytes:
            prefix = chance.choice(shared)[: chance.randrange(1, longest // 2)]
            rest = [chance.randrange(vocab_size) for _ in range(chance.randrange(1, min(longest // 2, 400)))]
            fields: dict[str, Any] = {
                "model": "model",
                "prompt": prefix + rest,
                "max_tokens": chance.randrange(1, min(longest, 400)),
                "temperature": chance.choice([0, 1.0]),
                "stream": True,
                "ignore_eos": True,
            }
            return msgspec.json.encode(fields)

        await asyncio.gather(*(client() for _ in range(concurrency)))
    return counts


async def ask(session: aiohttp.ClientSession, url: str, body: bytes, chunks: int | None) -> str:
    """One request, left after so many chunks; returns what became of it."""
    try:
        headers = {"Content-Type": "application/json"}
        async with session.post(f"{url}/v1/completions", data=body, headers=headers) as response:
            if response.status != 200:
                return "refused" if response.status == 429 else "error"
            seen, ended = 0, False
            async for line in response.content:
                seen += line.startswith(b"data: {")
                ended |= line.startswith(b"data: [DONE]")
                if chunks is not None and seen > chunks and not ended:
                    response.close()
                    return "aborted"
            return "ok" if ended else "error"
    except (aiohttp.ClientError, ConnectionError, TimeoutError):
        return "error"


def resident_mb(pid: int) -> float:
    """Host memory of a process that no other shares."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return float(fields["RssAnon"].split()[0]) / 1e3


def gpu_mb() -> float:
    """Memory in use on all GPUs; 0 without any."""
    query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    try:
        lines = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()
    except (OSError, subprocess.CalledProcessError):
        return 0.0
    return float(sum(map(int, lines)))


PHASES: dict[str, Callable[[Load], list[Finding]]] = {"replay": replay, "saturation": saturate}


if __name__ == "__main__":
    sys.exit(main())

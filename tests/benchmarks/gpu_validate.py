"""The twin validated: recorded on a GPU, ``python -m tests.benchmarks.gpu_validate --out DIR``, and judged anywhere.

A calibration, then four workloads that take no part in it at 50 and at 90 % of what the server bears, then all of them
again as long as there is time. Where a part fails or takes too long, the others go on, and what it recorded is kept.
``--table DIR`` simulates the twins of all that was recorded and prints the errors as Markdown; it needs no GPU.
``--capacities`` simulates what the loads are shares of. Traces are found through ``SERVETWIN_TRACES``.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.cost.measured import META
from tests.benchmarks.gpu_profiles import STARTS_S, profile_line, server
from tests.benchmarks.parts import Part, run_parts

WORKLOADS = {
    "bursty": (
        "trace=generated",
        "trace.generate.arrivals=gamma",
        "trace.generate.burstiness=0.25",
        "trace.generate.input.shape=lognormal",
        "trace.generate.input.mean=700",
        "trace.generate.output.shape=lognormal",
        "trace.generate.output.mean=120",
        "trace.generate.prefixes=4",
        "trace.generate.prefix_tokens.mean=200",
        "trace.cap_total_tokens=4000",
    ),
    "mooncake": ("trace=mooncake_conversation", "trace.cap_prompt_tokens=3000", "trace.cap_output_tokens=150"),
    # 299 requests of a minute without a long pause; the hour as a whole is a few bursts far apart.
    "azure_code": ("trace=azure_code_2023", "trace.start_s=900", "trace.end_s=960"),
    # Each session's first 45 s, ten times as fast: 80 turns of 25 sessions, so many at a time as the load says.
    "agentic": (
        "trace=claude_code_sample",
        "trace.end_s=45",
        "trace.time_scale=0.1",
        "trace.cap_prompt_tokens=12000",
        "trace.cap_output_tokens=300",
        "workload=closed",
    ),
}
SESSIONS = "agentic"  # of which the load is a number of sessions, not a rate
SHARES = (50, 90)  # % of capacity
# Of a model and ranks, requests a second in a closed loop of 256 requests (all 25 sessions), simulated by an earlier
# profile or the roofline, when the loads were chosen: --capacities prints today's.
CAPACITIES = {
    ("qwen3_8b", 1): {"bursty": 28.7, "mooncake": 14.0, "azure_code": 15.1, SESSIONS: 3.04},
    # H200s
    ("qwen3_32b", 2): {"bursty": 16.7, "mooncake": 9.0, "azure_code": 7.9, SESSIONS: 2.13},
    ("qwen3_32b", 4): {"bursty": 22.7, "mooncake": 13.0, "azure_code": 11.0, SESSIONS: 2.91},
    ("tiny", 1): {"bursty": 22.3, "mooncake": 4.0, "azure_code": 13.1, SESSIONS: 3.47},
}
# Sessions at a time that come to 48 and 87 % of that; half the sessions take as long at half the load.
CONCURRENCY = {50: ("workload.concurrency=4", "trace.sample=1/2"), 90: ("workload.concurrency=14",)}
_CLOSED = 256
_STARTS_S = 14.0  # a server of one rank; a GPU's kernels are loaded or compiled, CUDA graphs captured
_DRAINS = 1.3  # of an excerpt: until its last request has ended
_WARMUP_S = 3  # of the workload, left out of the errors: a server that just started has cold caches and clocks


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="gets the profile and the recorded runs; what is there is not redone")
    parser.add_argument(
        "--table", type=Path, nargs="+", metavar="DIR", help="judge what was recorded, by the first profile there"
    )
    parser.add_argument("--capacities", action="store_true", help="simulate what the loads are shares of")
    parser.add_argument("--budget", type=float, default=570, help="seconds of all parts; what does not fit is left out")
    parser.add_argument("--seconds", type=float, default=65, help="of the calibration; 0 for none")
    parser.add_argument("--excerpt", type=float, default=22, help="seconds of each workload")
    parser.add_argument("--model", default="qwen3_8b", choices=sorted({model for model, _ in CAPACITIES}))
    parser.add_argument("--workloads", nargs="*", default=list(WORKLOADS), choices=list(WORKLOADS))
    parser.add_argument("--shares", type=int, nargs="*", default=list(SHARES), choices=SHARES, help="%% of capacity")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each, as far as there is time")
    parser.add_argument("--hardware", default="h100")
    parser.add_argument("--tp", type=int, default=1, help="ranks (1)")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("overrides", nargs="*", help="of all commands, e.g. engine.max_running=128")
    arguments = parser.parse_intermixed_args()
    if not arguments.table and (arguments.model, arguments.tp) not in CAPACITIES:
        parser.error(f"--model {arguments.model} --tp {arguments.tp}: no capacities; there are {sorted(CAPACITIES)}")
    if arguments.capacities:
        return show_capacities(arguments)
    if arguments.table:
        return judge(arguments)
    if arguments.out is None:
        parser.error("--out, --table or --capacities")
    return record(arguments)


def record(arguments: argparse.Namespace) -> int:
    """Run all parts for which there is time; returns the worst exit code."""
    arguments.out.mkdir(parents=True, exist_ok=True)
    with _clocks(arguments.out / "clocks.csv"):
        return run_parts(parts(arguments), arguments.out, arguments.budget, _figures)


def parts(arguments: argparse.Namespace) -> Iterator[Part]:
    """The calibration, then every workload at every load, then all of them again."""
    common = _common(arguments)
    if arguments.seconds > 0:
        profile = arguments.out / "profile"
        words = ["harness", "calibrate", *common, "--seconds", f"{arguments.seconds:g}", "--out", str(profile)]
        yield Part("calibrate", words, arguments.seconds + STARTS_S, profile / META)
    for number in range(1, arguments.repeats + 1):
        for share in arguments.shares:
            for workload in arguments.workloads:
                directory = arguments.out / "recorded" / f"{workload}_{share}_percent" / str(number)
                words = [
                    "harness",
                    "run",
                    "backend=runtime",
                    *common,
                    *WORKLOADS[workload],
                    *_load(workload, share, arguments),
                ]
                words += [f"workload.warmup_s={_WARMUP_S}", f"hydra.run.dir={directory}"]
                takes_s = _STARTS_S * (1 + (arguments.tp > 1)) + _DRAINS * arguments.excerpt
                yield Part(f"{workload}_{share}_{number}", words, takes_s, directory / "summary.json")


def _common(arguments: argparse.Namespace) -> list[str]:
    return [*server(arguments.model, arguments.hardware, arguments.tp, arguments.device), *arguments.overrides]


def _load(workload: str, share: int, arguments: argparse.Namespace) -> list[str]:
    """So much of capacity, for as long as an excerpt."""
    if workload == SESSIONS:
        return list(CONCURRENCY[share])
    rate = CAPACITIES[arguments.model, arguments.tp][workload] * share / 100
    count = "trace.generate.requests" if workload == "bursty" else "trace.head"
    return [f"trace.rate={rate:.4g}", f"{count}={round(rate * arguments.excerpt)}"]


def judge(arguments: argparse.Namespace) -> int:
    """Simulate the twins and print their errors."""
    profiles = [place / "profile" for place in arguments.table if (place / "profile" / "profile.yaml").is_file()]
    cost = ["cost=profile", *(f"cost.path={profile}" for profile in profiles[:1])]
    out = arguments.out or arguments.table[0] / "validated"
    words = ["validate", *(f"from={place / 'recorded'}" for place in arguments.table), *cost, "--out", str(out)]
    print(f"$ python -m harness {' '.join(words)}", flush=True)
    code = subprocess.run([sys.executable, "-m", "harness", *words], check=False).returncode
    if code == 0:
        print(re.sub(r"(\w+)_(\d+)_percent", r"\1, \2 %", (out / "validation.md").read_text()))
    return code


def show_capacities(arguments: argparse.Namespace) -> int:
    """Simulate each workload in a closed loop, by the shipped profile where there is one, and print the loads."""
    print("| workload | capacity, requests/s |", *(f"{share} % |" for share in SHARES))
    print("|---|---:|", *("---:|" for _ in SHARES))
    for workload in arguments.workloads:
        cells = [f"{_simulated_rate(workload, [], arguments):.2f}"]
        for share in SHARES:
            load = _load(workload, share, arguments)
            rate = _simulated_rate(workload, load, arguments) if workload == SESSIONS else None
            cells.append(f"{load[0].partition('=')[2]} at a time: {rate:.2f}" if rate else load[0].partition("=")[2])
        print(f"| {workload} | {' | '.join(cells)} |", flush=True)
    return 0


def _simulated_rate(workload: str, load: list[str], arguments: argparse.Namespace) -> float:
    """Requests a second that the simulator ends, with as many at a time as the load says, or 256."""
    closed = load or ["workload=closed", f"workload.concurrency={_CLOSED}"]
    size = {"bursty": ["trace.generate.requests=1000"], "mooncake": ["trace.head=500"]}.get(workload, [])
    with tempfile.TemporaryDirectory() as directory:
        words = ["run", "cost=profile", *_common(arguments), *WORKLOADS[workload], *size, *closed]
        words = [word for word in words if not word.startswith("++backend.device")]
        command = [sys.executable, "-m", "harness", *words, f"hydra.run.dir={directory}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        summary = json.loads((Path(directory) / "summary.json").read_text())
    return float(summary["throughput"]["requests_per_s"])


@contextmanager
def _clocks(path: Path) -> Iterator[None]:
    """Write down the GPU's clocks and power meanwhile, a few times a second, where there is a GPU."""
    if shutil.which("nvidia-smi") is None:
        yield
        return
    fields = "timestamp,clocks.sm,power.draw,clocks_throttle_reasons.active,temperature.gpu"
    with path.open("a") as output:
        command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv", "--loop-ms=200"]
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield
        finally:
            process.terminate()
            process.wait()


def _figures(part: Part, _: str) -> str:
    """A recorded run in a few words, or what was measured for the profile."""
    path = part.leaves
    if path is None or not path.is_file():
        return "nothing was left"
    if path.name != "summary.json":
        return profile_line(path.parent)
    summary = json.loads(path.read_text())
    ttft, rate = summary["metrics"]["ttft_s"], summary["throughput"]["requests_per_s"]
    if ttft["mean"] is None:
        return "nothing was served that counts"
    figures = f"TTFT mean {ttft['mean'] * 1e3:.0f} ms, p99 {ttft['p99'] * 1e3:.0f} ms, {rate:.2f} requests/s"
    return figures if summary["complete"] else f"incomplete, {figures}"


if __name__ == "__main__":
    sys.exit(main())

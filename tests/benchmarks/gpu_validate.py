"""The twin calibrated and validated on one GPU: ``python -m tests.benchmarks.gpu_validate --out DIR [--help]``.

Each part is a command of its own with a time limit: where one fails or takes too long, the others go on, and what it
measured is kept. No workload takes part in a calibration. The Mooncake trace is found through ``SERVETWIN_TRACES``.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

BURSTY = (
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
)
MOONCAKE = ("trace=mooncake_conversation", "trace.cap_prompt_tokens=3000", "trace.cap_output_tokens=150")
WORKLOADS = {"bursty": BURSTY, "mooncake": MOONCAKE}
# Requests a second, some 45 % and 80 % of what an H100 bears.
RATES = {
    "qwen3_8b": {"bursty": (12, 22), "mooncake": (5, 9)},
    "qwen3_0_6b": {"bursty": (12, 40), "mooncake": (12, 24)},
}
_STARTS_S = 45.0  # a server, its twin, tables and pictures; a GPU's kernels are loaded or compiled
_WARMUP_S = 3  # of the workload, left out of the errors: a server that just started has cold caches and clocks
_ENDS_S = 10.0  # a part that was told to


@dataclass(frozen=True)
class Part:
    """A command.

    Attributes:
        name: Of its log, and of the directory of a validation.
        words: Behind ``python -m harness``.
        takes_s: Seconds, about; where there are fewer left it is not begun.
    """

    name: str
    words: list[str]
    takes_s: float


def parts(arguments: argparse.Namespace) -> list[Part]:
    """All of them, the most important first: one model after the other, low rates before high ones."""
    common = [f"hardware={arguments.hardware}", "++backend.device=cuda", "engine.page_size=16", *arguments.overrides]
    found = []
    for model in arguments.models:
        profile = str(arguments.out / f"{arguments.hardware}_{model}_tp1")
        words = ["calibrate", f"model={model}", *common, "--seconds", f"{arguments.seconds:g}", "--out", profile]
        found.append(Part(f"calibrate_{model}", words, arguments.seconds + 15))
        rates = RATES.get(model, RATES["qwen3_8b"])
        for turn in range(arguments.rates):
            for workload in arguments.workloads:
                rate = rates[workload][turn]
                requests = round(rate * arguments.excerpt)
                count = "trace.generate.requests" if workload == "bursty" else "trace.head"
                name = f"validate_{model}_{workload}_{rate}"
                words = ["validate", f"model={model}", *common, f"policy={arguments.policy}", *WORKLOADS[workload]]
                words += [f"{count}={requests}", f"trace.rate={rate}", f"workload.warmup_s={_WARMUP_S}"]
                words += ["cost=profile", f"cost.path={profile}"]
                words += ["--repeats", str(arguments.repeats), "--out", str(arguments.out / name)]
                found.append(Part(name, words, _STARTS_S + arguments.repeats * (arguments.excerpt + 10)))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="gets profiles, run directories, tables and pictures")
    parser.add_argument("--budget", type=float, default=580, help="seconds of all parts; what does not fit is left out")
    parser.add_argument("--seconds", type=float, default=65, help="of each calibration")
    parser.add_argument("--excerpt", type=float, default=30, help="seconds of each workload")
    parser.add_argument("--models", nargs="*", default=["qwen3_8b", "qwen3_0_6b"])
    parser.add_argument("--workloads", nargs="*", default=list(WORKLOADS), choices=list(WORKLOADS))
    parser.add_argument("--rates", type=int, default=2, choices=(1, 2), help="at how many rates")
    parser.add_argument("--repeats", type=int, default=1, help="runs of the real server")
    parser.add_argument("--hardware", default="h100")
    parser.add_argument("--policy", default="radix")
    parser.add_argument("overrides", nargs="*", help="of all commands, e.g. engine.max_running=128")
    arguments = parser.parse_intermixed_args()

    arguments.out.mkdir(parents=True, exist_ok=True)
    ends_s = time.monotonic() + arguments.budget
    codes, lines = [], []
    for part in parts(arguments):
        left_s = ends_s - time.monotonic() - _ENDS_S
        if left_s < part.takes_s:
            lines.append(f"{part.name}: left out, {left_s:.0f} s of the budget were left")
            continue
        begun_s = time.monotonic()
        code = _run(part, arguments.out / f"{part.name}.log", min(left_s, 1.5 * part.takes_s))
        codes.append(code)
        took_s = time.monotonic() - begun_s
        lines.append(f"{part.name}: exit code {code} after {took_s:.0f} s{_figures(arguments.out / part.name)}")
    print(*lines, sep="\n")
    return max(codes, default=0)


def _run(part: Part, log: Path, limit_s: float) -> int:
    """Run a command of ours, its output on the screen and in a file; returns its exit code, 124 out of time."""
    print(f"$ python -m harness {' '.join(part.words)}", flush=True)
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "harness", *part.words],
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            code = 124
            process.send_signal(signal.SIGINT)  # what it measured so far is kept
            with suppress(subprocess.TimeoutExpired):
                process.wait(_ENDS_S)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    print(log.read_text()[-3500:], flush=True)
    return code


def _figures(directory: Path) -> str:
    """The errors of a validation in a few words, where there are any."""
    path = directory / "validation.json"
    if not path.is_file():
        return ""
    errors = json.loads(path.read_text())["twins"][0]["errors"]
    wanted = [f"{metric}_s.{statistic}" for metric in ("ttft", "tpot", "e2e") for statistic in ("mean", "p90", "mape")]
    return ": " + ", ".join(f"{name} {errors[name]:+.1%}" for name in wanted if name in errors)


if __name__ == "__main__":
    sys.exit(main())

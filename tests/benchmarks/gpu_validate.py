"""The twin calibrated and validated on one GPU: ``python -m tests.benchmarks.gpu_validate --out DIR [--help]``.

Each part is a command of its own: where one fails or takes too long, the others go on, and what it measured is kept.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

WORKLOAD = (
    "trace=generated",
    "trace.generate.requests=240",
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="gets profiles, run directories, tables and pictures")
    parser.add_argument("--hardware", default="h100")
    parser.add_argument("--models", nargs="*", default=["qwen3_8b", "qwen3_0_6b"], help="to calibrate")
    parser.add_argument("--seconds", type=float, default=65, help="of each calibration")
    parser.add_argument("--validate", nargs="*", default=["qwen3_8b"], help="models to validate")
    parser.add_argument("--rate", default="10", help="requests a second")
    parser.add_argument("--repeats", default="1", help="runs of the real server")
    parser.add_argument("--policy", default="radix")
    parser.add_argument("overrides", nargs="*", help="of both commands, e.g. engine.page_size=16")
    arguments = parser.parse_intermixed_args()

    arguments.out.mkdir(parents=True, exist_ok=True)
    common = [f"hardware={arguments.hardware}", "++backend.device=cuda", "engine.page_size=16", *arguments.overrides]
    codes = []
    for model in arguments.models:
        words = [f"model={model}", *common, "--seconds", str(arguments.seconds), "--out", _profile(arguments, model)]
        codes.append(_run(["calibrate", *words], arguments.out / f"calibrate_{model}.log", arguments.seconds + 60))
    for model in arguments.validate:
        words = [f"model={model}", *common, f"policy={arguments.policy}", *WORKLOAD, f"trace.rate={arguments.rate}"]
        words += ["cost=profile", f"cost.path={_profile(arguments, model)}", "--repeats", arguments.repeats]
        words += ["--out", str(arguments.out / f"validate_{model}")]
        codes.append(_run(["validate", *words], arguments.out / f"validate_{model}.log", 200))
    return max(codes, default=0)


def _profile(arguments: argparse.Namespace, model: str) -> str:
    return str(arguments.out / f"{arguments.hardware}_{model}_tp1")


def _run(words: list[str], log: Path, timeout_s: float) -> int:
    """Run a command of ours, its output on the screen and in a file; returns its exit code, 124 out of time."""
    print(f"$ python -m harness {' '.join(words)}", flush=True)
    begun_s = time.monotonic()
    with log.open("w") as output:
        try:
            code = subprocess.run(
                [sys.executable, "-m", "harness", *words], stdout=output, stderr=subprocess.STDOUT, timeout=timeout_s
            ).returncode
        except subprocess.TimeoutExpired:
            code = 124
    print(log.read_text()[-6000:])
    print(f"exit code {code} after {time.monotonic() - begun_s:.0f} s", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())

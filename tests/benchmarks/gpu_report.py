"""All that is to be shown of one H100, in one call: ``python -m tests.benchmarks.gpu_report --out DIR``.

Parts, the most important first: ``check`` (logits and greedy tokens), ``engine`` (Qwen3-0.6B and 8B: offline, decode,
prefill), ``parity`` (500 Mooncake requests decided by simulator and server), ``moe`` (Qwen3-30B-A3B, 61 GB of weights
in bf16, and in fp8), ``fp8`` (Qwen3-8B with weights, KV or both in fp8), ``tests`` (tests/gpu, and tests of kernels
that run here on the GPU), ``sizing`` (of the KV memory, which wants the GPU for itself). Each part's table is printed
and written to ``report.md`` the moment it ends; what it measured is in JSON files, and what it said, line by line with
its seconds, in ``log.txt``. What the budget does not allow is left out, and a part that fails is a line. Traces are
found through ``SERVETWIN_TRACES``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks import engine_table
from tests.benchmarks.parts import Part, run_parts

ENGINE = "tests.benchmarks.gpu_engine"
SAID_LINES = 14  # of what the server says of itself, its table
PARITY = [
    "harness",
    "parity",
    "trace=mooncake_conversation",
    "--policies",
    "radix,vllm,sglang",
    "--backends",
    "sim,runtime",
    "model=qwen3_0_6b",
    "hardware=h100",
    "++backend.device=cuda",
]
# Of kernels, by a GPU where there is one, else in Triton's interpreter.
KERNEL_TESTS = [
    f"tests/unit/test_{name}.py"
    for name in ("fused_decode", "triton_attention", "fp8", "fused_moe", "reduce_norm", "chunk_graphs", "direct_launch")
]
# A checkout may be read only; pytest-benchmark, where it is installed, refuses to be run by several processes.
PLAIN = ("-p", "no:cacheprovider", "-p", "no:benchmark")
FP8_CASES = ["16:triton:graph:bf16/bf16", "16:auto:graph:bf16/fp8", "16:auto:graph:fp8/bf16", "16:auto:graph:fp8/fp8"]
MOE_CASES = ["16:auto:graph:bf16/bf16", "16:auto:graph:fp8/bf16"]


def main() -> int:
    """Run the parts; returns the worst exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="directory")
    parser.add_argument("--budget", type=float, default=720, help="seconds of all parts (720)")
    parser.add_argument("--only", type=lambda text: text.split(","), help="parts, with commas between (all)")
    arguments = parser.parse_args()
    out: Path = arguments.out
    known = {part.name: (part, found) for part, found in parts(out)}
    chosen = arguments.only or list(known)
    if not set(chosen) <= set(known):
        parser.error(f"--only {','.join(chosen)}: of {', '.join(known)}")
    report = out / "report.md"

    def tell(part: Part, said: str) -> str:
        table = known[part.name][1](said)
        with report.open("a") as file:
            file.write(f"`python -m {' '.join(part.words)}`\n\n{table}\n\n")
        return table

    code = run_parts((known[name][0] for name in chosen), out, arguments.budget, tell)
    if report.is_file():
        print(report.read_text())  # once more, together
    return code


def parts(out: Path) -> list[tuple[Part, Callable[[str], str]]]:
    """Each part, and what its table is, from what it has printed."""

    def engine(name: str, takes_s: float, *words: str) -> tuple[Part, Callable[[str], str]]:
        file = out / f"{name}.json"
        part = Part(name, [ENGINE, *words, "--out", str(file)], takes_s)
        return part, lambda _: engine_table.markdown(engine_table.load(file))

    check = out / "check.md"
    return [
        (Part("check", ["tests.benchmarks.gpu_check", "--out", str(check)], 80), lambda _: check.read_text()),
        engine("engine", 100, "--models", "qwen3_0_6b", "qwen3_8b"),
        (Part("parity", PARITY, 100), last_lines),
        engine("moe", 180, "--models", "qwen3_30b_a3b", "--cases", *MOE_CASES),
        engine("fp8", 170, "--models", "qwen3_8b", "--cases", *FP8_CASES),
        # Each process holds kernels and models of its own: ten find room.
        (
            Part("tests", ["pytest", "tests/gpu", *KERNEL_TESTS, "-q", "-n", "10", *PLAIN], 180),
            last_lines,
        ),
        (Part("sizing", ["pytest", "tests/gpu/test_kv_sizing.py", "-q", *PLAIN], 30), last_lines),
    ]


def last_lines(said: str) -> str:
    """The end of what a part printed, as it stands."""
    return "\n".join(["```", *said.rstrip().splitlines()[-SAID_LINES:], "```"])


if __name__ == "__main__":
    sys.exit(main())

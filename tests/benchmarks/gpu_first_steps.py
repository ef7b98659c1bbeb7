"""What the first steps of a server take more than the same ones later: ``python -m tests.benchmarks.gpu_first_steps``.

The same steps, each twice, in two processes, since a process loads a kernel once: one whose engine has run steps of no
sequence when it started (:mod:`runtime.engine.warm`), and one whose engine has not.
"""

from __future__ import annotations

import argparse
import logging
import subprocess
import sys
import time
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml

from runtime.distributed import SingleCommunicator
from runtime.engine.torch_engine import load_model, make_engine
from runtime.layers.parts import Placement
from runtime.models.config import load_model_config
from runtime.scheduler import Batch, Chunk, SchedulerConfig, Sequence, Snapshot
from tests.benchmarks.gpu_engine import CONF

STEP_TOKENS, MAX_RUNNING, PAGE_SIZE, CONTEXT = 8192, 256, 16, 9000
DECODE_AT = 600  # tokens before


class Step(NamedTuple):
    """Tokens of chunks, and how many sequences decode beside them."""

    chunks: tuple[int, ...]
    decodes: int = 0

    def __str__(self) -> str:
        return " + ".join([*map(str, self.chunks), *([f"{self.decodes} decodes"] if self.decodes else [])])


# None of the numbers of tokens is one that the engine has run.
STEPS = (
    Step((3000,)),
    Step((1301,)),
    Step((8192,)),
    Step((2000, 57), 37),
    Step((5013, 1200)),
    Step((1100,), 200),
    Step((4097,)),
    Step((7000,), 3),
    Step((1777, 300, 12), 90),
    Step((), 1),
    Step((), 7),
    Step((), 61),
    Step((), 250),
    Step((700,), 13),
)


def batch_of(step: Step) -> Batch:
    """The step, each sequence in a row of its own."""
    made = [
        Sequence(row, CONTEXT - 1, np.zeros(CONTEXT, np.int32), 1) for row in range(len(step.chunks) + step.decodes)
    ]
    for row, sequence in enumerate(made):
        sequence.row = row
    chunks = [Chunk(sequence, 0, tokens, True) for sequence, tokens in zip(made, step.chunks, strict=False)]
    decodes = made[len(chunks) :]
    return Batch(0, chunks, decodes, [DECODE_AT] * len(decodes), [], Snapshot(0, len(made), 0, 0, 0, 0))


def run_ms(engine: Any, step: Step) -> float:
    """Milliseconds from launch to tokens."""
    batch = batch_of(step)
    begun_s = time.perf_counter()
    engine.collect(engine.launch(batch))
    return (time.perf_counter() - begun_s) * 1e3


def measured(name: str, *, warm: bool, cuda_graph: bool) -> None:
    """An engine's start and its first steps, in this process."""
    fields = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    config, placement = load_model_config(fields), Placement(SingleCommunicator(), torch.device("cuda"), torch.bfloat16)
    model = load_model(fields, config, placement, 1)
    sizes = SchedulerConfig(2048, PAGE_SIZE, MAX_RUNNING, CONTEXT)
    table = np.arange(MAX_RUNNING * sizes.max_row_pages, dtype=np.int32).reshape(MAX_RUNNING, -1) % sizes.pages
    begun_s = time.perf_counter()
    engine = make_engine(config, model, placement, sizes, table, cuda_graph=cuda_graph)
    made_s = time.perf_counter()
    before = torch.cuda.memory_reserved()
    if warm:
        engine.warm_up(STEP_TOKENS)
    warm_s = time.perf_counter()
    print(
        f"{'warmed' if warm else 'not warmed'}: {name}, cuda_graph={cuda_graph}; the engine was made in "
        f"{made_s - begun_s:.2f} s, warmed in {warm_s - made_s:.2f} s; reserved since {before / 2**30:.2f} to "
        f"{torch.cuda.memory_reserved() / 2**30:.2f} GiB"
    )
    first = [run_ms(engine, step) for step in STEPS]
    again = [min(run_ms(engine, step) for _ in range(3)) for step in STEPS]
    print(f"  {'step':22s} | first ms | later ms | more")
    for step, first_ms, later_ms in zip(STEPS, first, again, strict=True):
        print(f"  {step!s:22s} | {first_ms:8.2f} | {later_ms:8.2f} | {first_ms - later_ms:6.2f}")
    print(f"  more in all: {sum(first) - sum(again):.1f} ms; at the end {torch.cuda.memory_reserved() / 2**30:.2f} GiB")
    engine.close()


def main() -> int:
    """Measure in two processes, or in this one.

    Returns:
        1 where one failed.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qwen3_8b", help="of conf/model (qwen3_8b)")
    parser.add_argument("--eager", action="store_true", help="cuda_graph=false")
    parser.add_argument("--only", choices=["cold", "warm"], help="of the two engines, in this process")
    arguments = parser.parse_args()
    if arguments.only:
        logging.basicConfig(format="%(message)s")
        logging.getLogger("runtime.engine").setLevel(logging.INFO)
        measured(arguments.model, warm=arguments.only == "warm", cuda_graph=not arguments.eager)
        return 0
    again = [sys.executable, "-m", "tests.benchmarks.gpu_first_steps", *sys.argv[1:], "--only"]
    return max(subprocess.run([*again, engine], check=False).returncode for engine in ("cold", "warm"))


if __name__ == "__main__":
    sys.exit(main())

"""Captured decodes whose contexts differ, their KV cut as FlashInfer does by itself and as the engine has it do.

``python -m tests.benchmarks.gpu_decode_split [--model qwen3_8b]``: whole steps, in turn. Contexts are as many tokens in
the mean, the longest so many times that, the others spread below; in the last column one of 20,000 tokens stands among
some that are a quarter of the mean. See :func:`runtime.scheduler.decode_split.decode_parts`.
"""

from __future__ import annotations

import statistics
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from runtime.attention import flashinfer
from runtime.engine import graphs
from tests.benchmarks.gpu_kernels import replaced
from tests.benchmarks.gpu_steps import FLASHINFER, PAGE_SIZE, Contexts, Steps, of_one_model, under

BATCHES = (16, 24, 32, 40, 48, 64, 96, 128)
MEANS = (600, 2000)
LONGEST = (1.0, 1.35, 2.0, 4.0)  # over the mean
LONE, OTHERS = 20_000, 1 / 4
ROUNDS = 3
AS_FLASHINFER: Contexts = [partial(replaced, flashinfer, "decode_parts", lambda _, at_once: at_once)]


def contexts_of(batch: int, mean: int, longest: float | None) -> npt.NDArray[np.int64]:
    """Tokens before the step, of each sequence, in no order."""
    if longest is None:
        return np.concatenate([[LONE], np.full(batch - 1, int(mean * OTHERS))])
    shares = ((np.arange(batch) + 0.5) / batch) ** (longest - 1)
    tokens = np.maximum(shares * (mean / shares.mean()), 1).astype(np.int64)
    return np.random.default_rng(batch).permutation(tokens)


@torch.inference_mode()
def measured(name: str) -> None:
    """Graphs of both over one pool."""
    steps = Steps(name, max(BATCHES), max(MEANS))
    # As many pages as there are, in an order of their own; who needs more takes some that others have.
    steps.columns = -(-(LONE + 64) // PAGE_SIZE)
    steps.table = np.resize(steps.table.ravel(), (max(BATCHES), steps.columns))
    sizes = partial(replaced, graphs, "ladder", lambda _: list(BATCHES))
    both = [
        (contexts, under([sizes, *contexts], steps.capture, FLASHINFER, BATCHES)) for contexts in (AS_FLASHINFER, [])
    ]
    columns = " | ".join(f"longest {longest:g}x the mean" for longest in LONGEST)
    print(
        f"decode of {name}, ms: as FlashInfer cuts, as the engine has it (how many times as fast): {columns} | one long"
    )
    for mean in MEANS:
        for batch in BATCHES:
            cells = []
            for longest in (*LONGEST, None):
                contexts = contexts_of(batch, mean, longest)
                found: list[list[float]] = [[], []]
                for _ in range(ROUNDS):
                    for times, (under_which, captured) in zip(found, both, strict=True):
                        times.append(under(under_which, steps.decode_ms, captured, batch, contexts))
                theirs_ms, ours_ms = (statistics.median(times) for times in found)
                cells.append(f"{theirs_ms:6.2f} {ours_ms:6.2f} ({theirs_ms / ours_ms:.3f})")
            print(f"  {batch:4d} of {mean:5d} | {' | '.join(cells)}", flush=True)


if __name__ == "__main__":
    of_one_model(__doc__, measured)

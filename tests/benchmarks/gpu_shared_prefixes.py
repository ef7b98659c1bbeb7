"""What a decode saves where sequences share a prefix: ``python -m tests.benchmarks.gpu_shared_prefixes``.

Who reads a page of KV just after another finds it in the L2 cache. Decodes that share some KV, against the same with
none shared (saved: 0), and against as many that do not read it a second time (saved: 1): contexts equal or not, one
group of sharers or several in no order. A cost model has one number for all of that:
:attr:`harness.cost.shape.CostModel.shared_saves`.
"""

from __future__ import annotations

import statistics
from functools import partial

import numpy as np
import numpy.typing as npt
import torch

from runtime.engine import graphs
from tests.benchmarks.gpu_kernels import replaced
from tests.benchmarks.gpu_steps import AUTO, PAGE_SIZE, TRITON, Steps, of_one_model, under

BATCHES = (32, 64, 128)
MEAN, LEAST, MOST = 1024, 640, 2560  # tokens of a context; the least is more than is shared
SPREAD = 0.6  # of the contexts' logarithms
GROUPS = (1, 4, 16)
SHARED = (160, 512)  # tokens of a prefix
ROUNDS = 3

Tokens = npt.NDArray[np.int64]


def contexts_of(batch: int, *, equal: bool) -> Tokens:
    """Tokens before the step, of each sequence."""
    if equal:
        return np.full(batch, MEAN)
    drawn = np.random.default_rng(1).lognormal(0, SPREAD, batch)
    return np.clip((drawn * (MEAN / drawn.mean())).astype(np.int64), LEAST, MOST)


@torch.inference_mode()
def measured(name: str) -> None:
    """Each backend's graphs over one pool."""
    steps = Steps(name, max(BATCHES), MOST)
    own = steps.table.copy()
    for other, attention in (("FlashInfer", AUTO), ("Triton", TRITON)):
        sizes = partial(replaced, graphs, "ladder", lambda _: list(BATCHES))
        captured = under([sizes], steps.capture, attention, BATCHES)

        def seconds(batch: int, contexts: Tokens, captured: graphs.DecodeGraphs = captured) -> float:
            return statistics.median(steps.decode_ms(captured, batch, contexts) for _ in range(ROUNDS))

        print(f"{name}, {other}: sequences, contexts, groups, tokens shared | ms apart, shared, not read | saved")
        for batch in BATCHES:
            for equal in (True, False):
                contexts = contexts_of(batch, equal=equal)
                steps.table[:] = own
                apart_ms = seconds(batch, contexts)
                for groups in GROUPS:
                    group = np.random.default_rng(2).permutation(np.arange(batch) % groups)
                    first = np.array([np.flatnonzero(group == one)[0] for one in range(groups)])
                    again = first[group] != np.arange(batch)
                    for shared in SHARED:
                        steps.table[:] = own
                        steps.table[:batch, : shared // PAGE_SIZE] = own[first[group], : shared // PAGE_SIZE]
                        shared_ms = seconds(batch, contexts)
                        steps.table[:] = own
                        less_ms = seconds(batch, contexts - shared * again)
                        saved = (apart_ms - shared_ms) / (apart_ms - less_ms)
                        print(
                            f"  {batch:4d} {'equal' if equal else 'unequal':8s} {groups:3d} {shared:4d} | "
                            f"{apart_ms:7.3f} {shared_ms:7.3f} {less_ms:7.3f} | {saved:5.2f}",
                            flush=True,
                        )
        del captured, seconds


if __name__ == "__main__":
    of_one_model(__doc__, measured)

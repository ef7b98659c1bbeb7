"""Captured decodes of few sequences over KV: one kernel a layer against several, in turn, and which the engine takes.

``python -m tests.benchmarks.gpu_long_decodes [--model qwen3_8b]``: Triton's one kernel beside FlashInfer's, and beside
Triton's own. Where the two meet is :data:`runtime.scheduler.graph_sizes.FUSED_KV_BYTES`.
"""

from __future__ import annotations

import gc
import statistics
from functools import partial

import torch

from runtime.engine import graphs
from runtime.scheduler.graph_sizes import decodes_fused
from tests.benchmarks.gpu_kernels import attempt, replaced
from tests.benchmarks.gpu_steps import AUTO, TRITON, Steps, of_one_model, under

BATCHES = (1, 2, 4, 8)
KV_TOKENS = (1024, 4096, 6144, 8192, 12_288, 16_384, 32_768, 98_304)  # of all sequences
LONGEST = 32_768  # tokens of one
ROUNDS = 3
CASES = [(batch, tokens // batch) for tokens in KV_TOKENS for batch in BATCHES if tokens // batch <= LONGEST]


@torch.inference_mode()
def measured(name: str) -> None:
    """Each backend's graphs over one pool."""
    steps = Steps(name, max(BATCHES), max(context for _, context in CASES))
    token_bytes = steps.pool[0, :, 0].nbytes
    for other, attention in (("FlashInfer", AUTO), ("Triton", TRITON)):
        made = attempt(
            other,
            under,
            [partial(replaced, graphs, "ladder", lambda _: list(BATCHES))],
            steps.capture,
            attention,
            BATCHES,
        )
        if made is None:
            continue
        print(f"decode of {name}, ms: median of {ROUNDS} rounds: one kernel a layer | {other}'s several | their ratio")
        for batch, context in CASES:
            times: dict[bool, list[float]] = {True: [], False: []}
            for _ in range(ROUNDS):
                for fused, found in times.items():
                    with replaced(graphs, "decodes_fused", lambda *_, fused=fused: fused):
                        found.append(steps.decode_ms(made, batch, context))
            one, several = (statistics.median(found) for found in times.values())
            kv = batch * context
            mib, taken = kv * token_bytes / 2**20, decodes_fused(batch, kv, token_bytes)
            wrong = "" if (one <= several) == taken else f"  the other is {max(one, several) / min(one, several):.3f}x"
            print(
                f"  {batch:2d} x {context:6d} = {kv:6d} tokens, {mib:6.1f} MiB a layer | {one:7.3f} | {several:7.3f} | "
                f"{several / one:.3f} | takes {'one' if taken else 'several'}{wrong}",
                flush=True,
            )
        del made
        gc.collect()
        torch.cuda.empty_cache()


if __name__ == "__main__":
    of_one_model(__doc__, measured)

"""How much KV memory an engine can have: what its device has left while a trial engine runs the largest steps."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from runtime.engine.engine import Engine
from runtime.engine.memory import KvMemoryError
from runtime.engine.params import SamplingParams
from runtime.scheduler import Batch, Chunk, SchedulerConfig, Sequence, Snapshot

logger = logging.getLogger(__name__)

MakeEngine = Callable[[SchedulerConfig, npt.NDArray[np.int32]], Engine[Any]]

# What takes the most memory to sample.
_COSTLY = SamplingParams(temperature=1.0, top_p=0.9, presence_penalty=1.0, logprobs=20, logit_bias={0: 1.0})


def fitted_pages(
    make: MakeEngine, scheduler: SchedulerConfig, *, step_tokens: int, measure: Callable[[int], int]
) -> int:
    """Pages for which there is room beside weights, workspaces, CUDA graphs and the activations of the largest steps.

    All ranks call it together.

    Args:
        make: Makes an engine of the sizes over a page table.
        scheduler: Sizes; ``pages`` is the most.
        step_tokens: The most prompt tokens in a step.
        measure: Counts the pages that fit now, besides so many bytes; all ranks' least. See
            :func:`runtime.engine.memory.pages_on_gpu`.

    Raises:
        KvMemoryError: There is no room.
    """
    columns = -(-scheduler.max_context // scheduler.page_size)
    table = np.zeros((scheduler.max_running, columns), np.int32)
    logger.info("KV memory: a trial engine finds what is free; engine.pages=N starts sooner")
    try:
        engine = make(replace(scheduler, pages=1), table)
        run_largest_steps(engine, scheduler, step_tokens)
        engine.warm_up(step_tokens)  # kernels take memory too
        # Activations stay reserved. The trial's page tables have a column; the real ones are on the device too: one for
        # graphs of decodes, one for graphs of steps with chunks.
        pages = measure(2 * table.nbytes)
        engine.close()
    except torch.OutOfMemoryError as error:
        raise KvMemoryError(
            f"no room for a step of {step_tokens} prompt tokens or {scheduler.max_running} sequences beside the "
            f"weights ({str(error).partition('. ')[0]}); lower policy.batching.step_tokens or engine.max_running, "
            "raise tp, or take a smaller model"
        ) from error
    del engine
    gc.collect()
    torch.cuda.empty_cache()
    logger.info("KV memory: there is room for %d pages", pages)
    return min(pages, scheduler.pages)


def run_largest_steps(engine: Engine[Any], scheduler: SchedulerConfig, step_tokens: int) -> None:
    """Run a prefill of as many tokens, and a step of as many sequences, as there can be.

    Args:
        engine: Over a page table of zeros: all KV goes to page 0.
        scheduler: Sizes.
        step_tokens: The most prompt tokens in a step.
    """
    longest = scheduler.max_context
    whole, rest = divmod(min(step_tokens, scheduler.max_running * longest), longest)
    for lengths in ([longest] * whole + [rest] * (rest > 0), [1] * min(scheduler.max_running, step_tokens)):
        batch = _prefill(lengths)
        for chunk in batch.chunks:
            engine.admit(chunk.sequence.request_id, _COSTLY)
        engine.collect(engine.launch(batch))
        for chunk in batch.chunks:
            engine.forget(chunk.sequence.request_id)


def _prefill(lengths: list[int]) -> Batch:
    chunks = []
    for row, length in enumerate(lengths):
        sequence = Sequence(row, length, np.zeros(length, np.int32), 1)
        sequence.row = row
        chunks.append(Chunk(sequence, 0, length, samples=True))
    return Batch(0, chunks, [], [], [], Snapshot(0, len(chunks), 0, 0, 0, 0))

"""The engine that computes: one step at a time, in the order they were launched, on a thread of its own."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from runtime.attention.base import Attention, AttentionMetadata
from runtime.attention.choose import choose_attention
from runtime.attention.torch import TorchAttention
from runtime.distributed.connect import connect, gpu_of
from runtime.engine.cuda_engine import CudaEngine
from runtime.engine.dtypes import placement_dtypes
from runtime.engine.engine import Engine, StepResult, StepRun
from runtime.engine.inputs import StepInputs, step_inputs
from runtime.engine.memory import KvMemoryError, kv_pool, pages_on_gpu
from runtime.engine.params import SamplingParams
from runtime.engine.place import EnginePlace, LoadedEngine
from runtime.engine.results import token_logprobs
from runtime.engine.sampler import Sampler, SamplingPlan
from runtime.engine.trial import fitted_pages
from runtime.layers.parts import Placement
from runtime.models.config import ModelConfig, load_model_config, model_folder
from runtime.models.decoder import CausalLm
from runtime.models.errors import WeightsError
from runtime.models.registry import build_model
from runtime.scheduler.batch import Batch
from runtime.scheduler.config import SchedulerConfig
from runtime.weights import load_weights, random_weights

logger = logging.getLogger(__name__)

Ticket = Future[StepResult]


class TorchEngine(Engine[Ticket]):
    """A model on one device, or one rank of it.

    The engine's thread is its queue of steps, as a stream is a GPU's: :meth:`launch` reads the batch and the page table
    on the caller's thread and leaves the rest to it. The token that a step samples for a row stays on the device, where
    the next step finds it. The communicator belongs to that thread.

    Args:
        config: The model's shape.
        model: Its weights filled in.
        placement: Where it is.
        scheduler: Sizes.
        table: (max_running, max_row_pages) int32: the scheduler's page table, read at each launch.
        attention: Makes the attention backend of the KV pool and the page size.
    """

    def __init__(
        self,
        config: ModelConfig,
        model: CausalLm,
        placement: Placement,
        scheduler: SchedulerConfig,
        table: npt.NDArray[np.int32],
        *,
        attention: Callable[[Tensor, int], Attention] = TorchAttention,
    ) -> None:
        self._model = model
        self._device = placement.device
        self._page_size = scheduler.page_size
        self._table = table
        pool = kv_pool(config, placement, pages=scheduler.pages, page_size=scheduler.page_size)
        self._attention = attention(pool, scheduler.page_size)
        self._sampler = Sampler(scheduler.max_running, config.vocab_size, placement.device)
        self._last_token = torch.zeros(scheduler.max_running, dtype=torch.int64, device=placement.device)
        self._steps = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")

    def admit(self, request_id: int, params: SamplingParams) -> None:
        self._sampler.admit(request_id, params)

    def forget(self, request_id: int) -> None:
        self._sampler.forget(request_id)

    def launch(self, batch: Batch) -> Ticket:
        inputs = step_inputs(batch, self._table, self._page_size)
        plan = self._sampler.plan(batch, inputs.lengths[inputs.sampled])
        return self._steps.submit(self._run, inputs, plan)

    def collect(self, ticket: Ticket) -> StepResult:
        return ticket.result()

    def close(self) -> None:
        self._steps.shutdown()

    @torch.inference_mode()
    def _run(self, inputs: StepInputs, plan: SamplingPlan) -> StepResult:
        start_s = time.monotonic()
        rows, positions, slots = (self._put(x) for x in (inputs.rows, inputs.positions, inputs.slots))
        tokens = torch.cat([self._put(inputs.tokens), self._last_token[rows[inputs.prefills :]]])
        attention = self._attention.plan(
            AttentionMetadata(inputs.query_lengths, inputs.lengths, inputs.pages, inputs.prefills, slots)
        )
        hidden = self._model(tokens, positions, attention)
        sequences = len(inputs.rows)
        if not len(inputs.sampled):
            return StepResult([], [], StepRun(start_s, time.monotonic() - start_s, sequences, graph=False))
        logits = self._model.logits(hidden[self._put(inputs.sampled_tokens)])
        sampled = self._sampler.sample(logits, plan)
        self._last_token[rows[self._put(inputs.sampled)]] = sampled.tokens
        foretold = plan.forced is not None and bool((plan.forced >= 0).all())
        chosen: list[int] | None = None if foretold else sampled.tokens.tolist()
        run = StepRun(start_s, time.monotonic() - start_s, sequences, graph=False)
        return StepResult(chosen, token_logprobs(sampled, plan.logprobs), run)

    def _put(self, array: npt.NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(array).to(self._device)


def load_model(
    source: Path | str | Mapping[str, Any], config: ModelConfig, placement: Placement, seed: int | None = None
) -> CausalLm:
    """Build a model and fill it.

    Args:
        source: What ``config`` was read from: a checkpoint's folder, or fields without weights.
        config: The model's shape.
        placement: Where it goes.
        seed: Of random weights, in place of the checkpoint's.

    Raises:
        ModelError: The architecture is not supported, does not divide over the ranks, or the checkpoint does not fit.
    """
    folder = model_folder(source)
    model = build_model(config, placement)
    if seed is not None:
        random_weights(model, seed)
    elif folder is not None:
        load_weights(model, folder)
    else:
        raise WeightsError("seed=null: a model given by its fields has no weights; give a seed for random ones")
    return model


def make_engine(
    config: ModelConfig,
    model: CausalLm,
    placement: Placement,
    scheduler: SchedulerConfig,
    table: npt.NDArray[np.int32],
    *,
    attention: str = "auto",
    cuda_graph: bool = True,
) -> Engine[Any]:
    """The engine for a device.

    Args:
        config: The model's shape.
        model: Its weights filled in.
        placement: Where it is.
        scheduler: Sizes.
        table: (max_running, max_row_pages) int32: the scheduler's page table.
        attention: Backends, see :func:`runtime.attention.choose.choose_attention`.
        cuda_graph: Whether decodes run as CUDA graphs, where attention is not PyTorch's.

    Raises:
        AttentionError: There is no such attention, or not for this device and dtype.
    """
    choice = choose_attention(attention, placement, config.head_dim)
    if choice.decode == "torch":
        return TorchEngine(config, model, placement, scheduler, table)
    return CudaEngine(config, model, placement, scheduler, table, attention=choice, cuda_graph=cuda_graph)


def build(options: Mapping[str, Any], place: EnginePlace) -> LoadedEngine:
    """An engine from plain configuration, for a worker process.

    Args:
        options: ``model``: a checkpoint's folder, or the fields of a Hugging Face config; ``seed``: where given, random
            weights; ``device``: ``cpu`` or ``cuda``; ``dtype``: where given, other than the model's own; ``threads``:
            CPU threads of an operation; ``weight_dtype`` and ``kv_dtype``: see
            :func:`runtime.engine.dtypes.placement_dtypes`; ``attention`` and ``cuda_graph``: see :func:`make_engine`;
            ``all_reduce``: see :func:`runtime.distributed.connect.connect`; ``memory_fraction``: where given, the KV
            memory is what this much of the GPU's memory leaves free, and the pages of ``place`` are the most.
        place: The worker's.

    Raises:
        AttentionError: The attention asked for cannot run there.
        DtypeError: Nor can a dtype.
        ModelError: The model cannot be loaded.
        KvMemoryError: There is no room for KV.
    """
    if "threads" in options:
        torch.set_num_threads(options["threads"])
    config = load_model_config(options["model"])
    device = torch.device(options.get("device", "cpu"))
    if device.type == "cuda":
        device = gpu_of(place.rank, place.tp)
    dtype: torch.dtype = getattr(torch, options.get("dtype") or config.dtype)
    fp8 = placement_dtypes(options.get("weight_dtype"), options.get("kv_dtype"), dtype, device)
    all_reduce = options.get("all_reduce", "auto")
    communicator = connect(
        place.rank,
        place.tp,
        place.rendezvous,
        device,
        width=config.hidden_size,
        dtype=dtype,
        all_reduce=all_reduce,
    )
    placement = Placement(communicator, device, dtype, **fp8)
    if device.type == "cuda":  # where there are many
        logger.info("rank %d of %d: loading weights", place.rank, place.tp)
    model = load_model(options["model"], config, placement, options.get("seed"))
    chosen = {name: options[name] for name in ("attention", "cuda_graph") if name in options}

    def make(scheduler: SchedulerConfig, table: npt.NDArray[np.int32]) -> Engine[Any]:
        return make_engine(config, model, placement, scheduler, table, **chosen)

    scheduler = place.scheduler
    if "memory_fraction" in options:
        measure = partial(
            pages_on_gpu, config, placement, page_size=scheduler.page_size, fraction=options["memory_fraction"]
        )
        pages = fitted_pages(make, scheduler, step_tokens=place.step_tokens, measure=measure)
        scheduler = replace(scheduler, pages=pages)

    def start(table: npt.NDArray[np.int32]) -> Engine[Any]:
        engine = make(scheduler, table)
        try:
            engine.warm_up(place.step_tokens)
        except torch.OutOfMemoryError as error:
            raise KvMemoryError(
                f"engine.pages={scheduler.pages}: they leave no room for a step of {place.step_tokens} prompt tokens "
                f"({str(error).partition('. ')[0]}); lower engine.pages or policy.batching.step_tokens"
            ) from error
        return engine

    return LoadedEngine(scheduler, start)

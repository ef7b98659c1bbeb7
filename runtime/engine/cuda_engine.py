"""The engine on a GPU: a step is launched on the caller's thread and runs in the order of the stream."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from runtime.attention.base import AttentionMetadata
from runtime.attention.choose import AttentionChoice, gpu_attention
from runtime.engine.chunk_graphs import ChunkGraphs
from runtime.engine.clock import DeviceClock
from runtime.engine.engine import Engine, StepResult, StepRun
from runtime.engine.graphs import DecodeGraphs
from runtime.engine.inputs import StepInputs, step_inputs
from runtime.engine.memory import kv_pool
from runtime.engine.params import SamplingParams
from runtime.engine.results import token_logprobs
from runtime.engine.sampler import Sampled, Sampler, SamplingPlan
from runtime.engine.warm import of_no_sequence, warm_plans, warm_prefills, warm_rows
from runtime.layers.parts import Placement
from runtime.models.config import ModelConfig
from runtime.models.decoder import CausalLm
from runtime.scheduler.batch import Batch
from runtime.scheduler.config import SchedulerConfig
from runtime.scheduler.graph_sizes import chunked_size
from runtime.transfer import to_device, to_host

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class CudaTicket:
    """A step launched.

    Attributes:
        began: When the device comes to the step.
        ended: When the step's tokens are on the host.
        padded_sequences: Sequences that it runs, padding included.
        graph: Whether it is replayed as a CUDA graph.
        sampled: Its tokens, in pinned memory that is filled by then; None where it samples none.
        foretold: Whether nobody asks for the tokens.
        logprobs: How many likeliest tokens each sequence wants, see ``SamplingPlan``.
    """

    began: torch.cuda.Event
    ended: torch.cuda.Event
    padded_sequences: int
    graph: bool
    sampled: Sampled | None
    foretold: bool
    logprobs: list[int] | None


class CudaEngine(Engine[CudaTicket]):
    """A model on one GPU, or one rank of it.

    Nothing in :meth:`launch` waits for the GPU but for the copies of the step before: inputs go by pinned memory, the
    token that a step samples for a row stays on the device, where the next step finds it.

    Args:
        config: The model's shape.
        model: Its weights filled in, half precision.
        placement: Where it is.
        scheduler: Sizes.
        table: (max_running, max_row_pages) int32: the scheduler's page table, read at each launch.
        attention: Backends.
        cuda_graph: Whether steps that only decode, and those with chunks of few tokens, run as CUDA graphs.
    """

    def __init__(
        self,
        config: ModelConfig,
        model: CausalLm,
        placement: Placement,
        scheduler: SchedulerConfig,
        table: npt.NDArray[np.int32],
        *,
        attention: AttentionChoice,
        cuda_graph: bool = True,
    ) -> None:
        self._model = model
        self._device = placement.device
        self._page_size = scheduler.page_size
        self._table = table
        # A page and a row more than the scheduler knows, for the padding of graphs.
        pool = kv_pool(config, placement, pages=scheduler.pages + 1, page_size=scheduler.page_size)
        heads = config.num_attention_heads // placement.communicator.size
        self._attention = gpu_attention(attention, pool, scheduler.page_size, heads)
        self._sampler = Sampler(scheduler.max_running, config.vocab_size, placement.device)
        self._last_token = torch.zeros(scheduler.max_running + 1, dtype=torch.int64, device=placement.device)
        self._clock = DeviceClock()
        self._chunks: ChunkGraphs | None = None
        self._decodes: DecodeGraphs | None = None
        if cuda_graph:
            columns, memory = scheduler.max_row_pages, torch.cuda.graph_pool_handle()
            with torch.inference_mode():  # steps with chunks are the larger ones: decodes fit in their memory
                self._chunks = ChunkGraphs(
                    model,
                    pool,
                    self._last_token,
                    page_size=scheduler.page_size,
                    heads=heads,
                    columns=columns,
                    pool=memory,
                )
                self._decodes = DecodeGraphs(
                    model,
                    self._attention,
                    self._last_token,
                    largest=scheduler.max_running,
                    columns=columns,
                    pool=memory,
                )

    def admit(self, request_id: int, params: SamplingParams) -> None:
        self._sampler.admit(request_id, params)

    def forget(self, request_id: int) -> None:
        self._sampler.forget(request_id)

    @torch.inference_mode()
    def launch(self, batch: Batch) -> CudaTicket:
        inputs = step_inputs(batch, self._table, self._page_size)
        plan = self._sampler.plan(batch, inputs.lengths[inputs.sampled])
        began, sequences = self._clock.mark(), len(inputs.rows)
        graph = True
        if self._decodes is not None and not inputs.prefills:
            hidden, rows = self._decodes.run(inputs)
            sequences = self._decodes.padded(sequences)
        elif self._chunks is not None and (size := _chunked_size(inputs)):
            hidden, rows = self._chunks.run(inputs, size)
        else:
            hidden, rows = self._forward(inputs)
            graph = False
        sampled = None
        if len(inputs.sampled):
            sampled = self._sample(hidden, rows, plan)
        foretold = plan.forced is not None and bool((plan.forced >= 0).all())
        return CudaTicket(began, self._clock.mark(), sequences, graph, sampled, foretold, plan.logprobs)

    def collect(self, ticket: CudaTicket) -> StepResult:
        ended_s, duration_s = self._clock.wait(ticket.ended), self._clock.between(ticket.began, ticket.ended)
        run = StepRun(ended_s - duration_s, duration_s, ticket.padded_sequences, ticket.graph)
        if ticket.sampled is None:
            return StepResult([], [], run)
        tokens = None if ticket.foretold else ticket.sampled.tokens.tolist()
        return StepResult(tokens, token_logprobs(ticket.sampled, ticket.logprobs), run)

    @torch.inference_mode()
    def warm_up(self, step_tokens: int) -> None:
        """Run steps of no sequence kernel by kernel, onto the page and the row of none; see :mod:`runtime.engine.warm`.

        The memory that they take stays reserved for the steps to come, which need as much.
        """
        begun_s, max_running = time.monotonic(), len(self._last_token) - 1
        nowhere = {"row": max_running, "page": self._attention.padding_page, "page_size": self._page_size}
        logger.info("kernels: loading those of steps of up to %d prompt tokens", step_tokens)
        for inputs in warm_prefills(step_tokens, max_running, **nowhere):
            hidden, rows = self._forward(inputs)
        for count in warm_rows(max_running):
            if self._decodes is None:
                self._forward(of_no_sequence([], count, **nowhere))
            for plan in warm_plans(count):
                self._sample(hidden[:1].expand(count, -1).contiguous(), rows[:1].expand(count), plan)
        self._last_token.zero_()
        torch.cuda.synchronize(self._device)
        logger.info("kernels: loaded in %.1f s", time.monotonic() - begun_s)

    def close(self) -> None:
        torch.cuda.synchronize(self._device)

    def _forward(self, inputs: StepInputs) -> tuple[Tensor, Tensor]:
        """Run any step, kernel by kernel; returns the sampled sequences' hidden states and rows."""
        known, positions, slots, decoding, last, rows = to_device(
            self._device,
            inputs.tokens,
            inputs.positions,
            inputs.slots,
            inputs.rows[inputs.prefills :],
            inputs.sampled_tokens,
            inputs.rows[inputs.sampled],
        )
        tokens = torch.cat([known, self._last_token[decoding]])
        attention = self._attention.plan(
            AttentionMetadata(inputs.query_lengths, inputs.lengths, inputs.pages, inputs.prefills, slots)
        )
        return self._model(tokens, positions, attention)[last], rows

    def _sample(self, hidden: Tensor, rows: Tensor, plan: SamplingPlan) -> Sampled:
        """Choose tokens, on their way to the host; the next step finds them on the device.

        Args:
            hidden: (sampled, hidden_size).
            rows: (sampled,) of the page table.
            plan: How.
        """
        chosen = self._sampler.sample(self._model.logits(hidden), plan)
        self._last_token[rows] = chosen.tokens
        return Sampled(
            *(
                None if tensor is None else to_host(tensor)  # type: ignore[arg-type]
                for tensor in (chosen.tokens, chosen.logprobs, chosen.top_ids, chosen.top_logprobs)
            )
        )


def _chunked_size(inputs: StepInputs) -> int:
    """Tokens of the graph that runs a step with chunks; 0 where none does."""
    prefills = inputs.prefills
    longest = int(inputs.lengths[:prefills].max())
    return chunked_size(prefills, len(inputs.tokens), longest, len(inputs.rows) - prefills)

"""Steps that compute chunks of prompts as CUDA graphs: with few tokens, launching them takes longer than running."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from runtime.attention.base import ChunkedLimits
from runtime.attention.choose import chunked_attention
from runtime.engine.graphs import captured
from runtime.engine.inputs import IntArray, StepInputs, padded
from runtime.models.decoder import CausalLm
from runtime.scheduler.graph_sizes import CHUNKED_SIZES, LONGEST_CHUNKED, MOST_CHUNKS

if TYPE_CHECKING:
    from runtime.attention.triton import TritonChunkedStep

logger = logging.getLogger(__name__)

_ROWS = 6  # of the inputs: known tokens, rows of the page table, positions, slots; sampled tokens, their rows
_ON_DEVICE = -1  # in place of a token id
_NONE: IntArray = np.zeros(0, np.int64)
_NOTHING = StepInputs(_NONE, _NONE, _NONE, _NONE, _NONE, _NONE, np.zeros((0, 0), np.int32), 0, _NONE, _NONE)


class _Captured(NamedTuple):
    graph: torch.cuda.CUDAGraph
    attention: TritonChunkedStep
    hidden: Tensor


class ChunkGraphs:
    """The forward pass of a step with chunks, decodes beside them or not, captured at a ladder of tokens.

    A smaller step is padded by a chunk of no sequence, on the page of no sequence. Attention is Triton's, whichever
    backend runs other steps. All graphs share their memory: what a step computes is to be read before the next one.

    Args:
        model: On the GPU.
        kv: The KV pool; its last page is one that the scheduler does not know.
        page_size: Tokens a page.
        heads: Query heads of this rank.
        last_token: (rows + 1,) the token that each row decodes next; the last row is padding's.
        columns: Pages of the longest sequence.
        pool: Memory for graphs.
    """

    def __init__(
        self,
        model: CausalLm,
        kv: Tensor,
        last_token: Tensor,
        *,
        page_size: int,
        heads: int,
        columns: int,
        pool: Any,
    ) -> None:
        attention = chunked_attention(kv, page_size, heads)
        self._page_size = page_size
        self._row = len(last_token) - 1
        self._page = attention.padding_page
        limits = [chunked_limits(size, self._row, page_size) for size in CHUNKED_SIZES]
        entries = max((attention.chunked_entries(most, columns) for most in limits), default=0)
        self._inputs = torch.zeros(_ROWS * max(CHUNKED_SIZES, default=0), dtype=torch.int64, device=kv.device)
        tables = torch.zeros(entries, dtype=torch.int32, device=kv.device)
        self._captured: dict[int, _Captured] = {}
        for most in reversed(limits):  # the largest first: the others fit in its memory
            known, rows, positions, slots, _, _ = self._inputs[: _ROWS * most.tokens].view(_ROWS, most.tokens)
            step = attention.chunked_step(most, slots, tables)

            def forward(
                known: Tensor = known,
                rows: Tensor = rows,
                positions: Tensor = positions,
                step: TritonChunkedStep = step,
            ) -> Tensor:
                tokens = torch.where(known == _ON_DEVICE, last_token[rows], known)
                return model(tokens, positions, step)  # type: ignore[no-any-return]

            self._load(self._padded(_NOTHING, most.tokens), step)
            graph, hidden = captured(forward, pool)
            self._captured[most.tokens] = _Captured(graph, step, hidden)
        logger.info("CUDA graphs: captured steps with chunks, of %d numbers of tokens", len(limits))

    def run(self, inputs: StepInputs, size: int) -> tuple[Tensor, Tensor]:
        """Run a step with chunks.

        Args:
            inputs: The step.
            size: Tokens of the graph, see :func:`runtime.scheduler.graph_sizes.chunked_size`.

        Returns:
            (sampled, hidden_size), and (sampled,) rows, on the device until the next step.
        """
        chosen = self._captured[size]
        self._load(self._padded(inputs, size), chosen.attention)
        chosen.graph.replay()
        last, rows = self._inputs[: _ROWS * size].view(_ROWS, size)[4:, : len(inputs.sampled)]
        return chosen.hidden[last], rows

    def _padded(self, inputs: StepInputs, size: int) -> StepInputs:
        return padded(inputs, size, row=self._row, page=self._page, page_size=self._page_size)

    def _load(self, inputs: StepInputs, step: TritonChunkedStep) -> None:
        """Have the device read a step of exactly the graph's tokens."""
        size, prefilled, sampled = len(inputs.positions), len(inputs.tokens), len(inputs.sampled)
        pinned = torch.zeros(_ROWS, size, dtype=torch.int64, pin_memory=self._inputs.is_cuda)
        host = pinned.numpy()
        host[0, :prefilled], host[0, prefilled:] = inputs.tokens, _ON_DEVICE
        host[1, :prefilled], host[1, prefilled:] = self._row, inputs.rows[inputs.prefills :]
        host[2], host[3] = inputs.positions, inputs.slots
        host[4, :sampled], host[5, :sampled] = inputs.sampled_tokens, inputs.rows[inputs.sampled]
        self._inputs[: _ROWS * size].copy_(pinned.view(-1), non_blocking=True)
        step.plan(inputs.query_lengths, inputs.lengths, inputs.pages, inputs.prefills)


def chunked_limits(tokens: int, max_running: int, page_size: int) -> ChunkedLimits:
    """What the graph of so many tokens has room for, padding included."""
    chunks = min(tokens, MOST_CHUNKS, max_running)
    pages = chunks * -(-LONGEST_CHUNKED // page_size) + -(-tokens // page_size)
    return ChunkedLimits(tokens, chunks + 1, pages, min(tokens, max_running))

"""What a step's seconds depend on: how much of each kind of work it is, as the kernels share it out over a GPU."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.cost.additive import Work
from harness.cost.shape import StepShape
from runtime.scheduler.decode_split import decodes_on_tensor_cores
from runtime.scheduler.graph_sizes import chunks_captured, decodes_fused

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy.typing as npt

    from harness.cost.additive import FloatArray
    from harness.cost.roofline import Roofline

KINDS = (
    "rows",
    "sampled",
    "prefill_sequences",
    "prefill_tokens",
    "prefill_pairs",
    "captured_pairs",
    "decode_sequences",
    "fused_kv",
    "decode_kv",
)
"""The order of amounts; from one decode step to the next only KV changes: one of the last two."""

_TILE = 128  # queries of a head that a thread block attends for (FlashAttention-3)
# Of decode attention without tensor cores: blocks that share a processor, and bytes/s of KV that one of them reads.
# Measured: Qwen3-0.6B on an H100.
_BLOCKS, _BLOCK_BANDWIDTH = 10, 12e9
_CAPTURED = 2.2  # seconds of a captured chunk's attention over an eager one's: the same two
_BESIDE = 0.5  # of what a chunk of its context takes beside it, a captured decode: the same two
_FUSED = 1.8  # seconds for a small decode's one kernel to read KV, over several kernels: Qwen3-8B on an H100


class StepWork:
    """Counts a step's work.

    Attention takes as long as its slowest thread block. A prompt's blocks each walk over the whole context of some
    queries: fewer queries than fill the GPU take no less than as many as fill it. Decodes are split over the context
    (FlashInfer, Ye et al., 2025): on tensor cores such that all of them keep the memory busy to the end; without, into
    as many blocks as run at once, and where one sequence is much longer than the others, its blocks are left alone in
    the end and cannot use the memory's bandwidth.

    Attributes:
        kinds: What the roofline gives to each kind of work alone, in the order of :data:`KINDS`,
        nothing_s: and to a step in which there is nothing.

    Args:
        roofline: Gives each kind of work its shape; its device's processors are what blocks are shared over.
        chunk_graphs: Steps with chunks of few tokens replay CUDA graphs (see :mod:`runtime.scheduler.graph_sizes`):
            another attention kernel runs them, which never splits a decode beside the chunks.
        fused_kv_bytes: Of a layer's KV, the most that a small decode reads in one kernel; 0 where none does.
    """

    def __init__(self, roofline: Roofline, *, chunk_graphs: bool, fused_kv_bytes: int) -> None:
        model, hardware, tp = roofline.model, roofline.hardware, roofline.tp
        self.nothing_s = roofline.step_s(StepShape())
        self.kinds = _kinds(roofline, self.nothing_s)
        self._chunk_graphs = chunk_graphs
        self._fused_kv_bytes = fused_kv_bytes
        self._token_bytes = model.kv_bytes_per_token(tp, roofline.kv_dtype) // model.layers
        self._filling = hardware.processors * _TILE / max(1, model.heads // tp)  # queries
        heads = model.kv_heads_per_gpu(tp)
        self._splits = max(1, _BLOCKS * hardware.processors // heads)  # sequences, or parts of them, that run at once
        saturating = hardware.memory_bandwidth * hardware.attention_bandwidth_fraction / _BLOCK_BANDWIDTH / heads
        left_alone = hardware.processors > 1 and not decodes_on_tensor_cores(model.heads // tp, heads)
        # So many parts read as fast as the memory can. Beyond half of what runs at once, a longer context of the others
        # would make a step faster.
        self._saturating = min(saturating, self._splits / 2) if left_alone and saturating > 1 else 0.0

    def of(self, shape: StepShape) -> tuple[float, ...]:
        """(kinds,) amounts of work of one step."""
        return self._amounts(shape, min, max)

    def of_each(self, columns: Mapping[str, npt.NDArray[np.float64]]) -> list[FloatArray]:
        """The same for many steps, bit for bit.

        Args:
            columns: (steps,) of each field of :class:`StepShape`, by name.

        Returns:
            (kinds, steps) amounts.
        """
        return [
            np.asarray(amount, np.float64)
            for amount in self._amounts(SimpleNamespace(**columns), np.minimum, np.maximum)
        ]

    def fused(self, rows: Any, context: Any) -> Any:
        """Whether a decode, padded to so many rows and of so many tokens of KV, attends in one kernel a layer."""
        # The engine counts in full what sequences share: near the limit, a step that shares may be taken for the other.
        return decodes_fused(rows, context, self._token_bytes, self._fused_kv_bytes)

    def decode_kv(
        self, sequences: Any, rows: Any, context: Any, longest: Any, least: Any = min, most: Any = max
    ) -> Any:
        """Tokens of KV that decodes read; of blocks left alone, those of a longer sequence as often as they cost.

        Args:
            sequences: Of the step, or of each of some steps,
            rows: and those to which a CUDA graph pads them: an empty one takes a block from the others too.
            context: Tokens that they read,
            longest: and that the longest of them reads.
            least: ``min``, or ``numpy.minimum`` for many steps.
            most: The same.
        """
        if not self._saturating:
            return context
        # A sequence is cut into parts of one length, the last of which is half of that in the middle. Of an even share
        # of the blocks that run at once, a longer sequence gets more.
        free = most(self._splits - rows, 0)
        parts = least(sequences + free, self._splits)
        part = context * longest / most(context + longest * free, 1)
        part = most(part, least(longest, context / most(parts - sequences / 2, 1)))
        # Where not all run at once, those that run at the end are a part of them, and are half read.
        running = self._splits / most(sequences, self._splits)
        left = context * running * (1 + running) / 2
        # When fewer parts are left than the memory can serve, it waits: for as much as those that are longest fall
        # short of the longest. Of parts whose longest share of all is so much, they hold that of a hyperbola.
        weight = self._saturating * most(part - left / most(parts, 1), 0)
        return context + self._saturating * part * weight / most(left + weight, 1)

    def roofline_s(self, shape: StepShape) -> list[float]:
        """(1 + kinds,) seconds that the roofline gives to what every step has, and to each kind of work in this one."""
        return [
            self.nothing_s,
            *(kind.roofline_s(amount) for kind, amount in zip(self.kinds, self.of(shape), strict=True)),
        ]

    def _amounts(self, step: Any, least: Any, most: Any) -> tuple[Any, ...]:
        """Of a step, with ``min`` and ``max``; of many, with NumPy's."""
        chunks, decodes = step.prefill_sequences, step.decode_sequences
        rows = step.prefill_tokens + step.decode_rows
        longest = most(step.prefill_max_context, step.prefill_context / most(chunks, 1))
        captured = self._chunk_graphs & (chunks > 0) & chunks_captured(chunks, rows, longest)
        pairs = most(step.prefill_pairs, self._filling * longest)
        captured_pairs = captured * most(pairs, _BESIDE * self._filling * step.decode_max_context)
        fused = (chunks == 0) & self.fused(step.decode_rows, step.decode_context)
        kv = self.decode_kv(decodes, step.decode_rows, step.decode_context, step.decode_max_context, least, most)
        kv = captured * step.decode_context + (1 - captured) * kv
        return (
            rows,
            step.sampled,
            chunks,
            step.prefill_tokens,
            (1 - captured) * pairs,
            captured_pairs,
            decodes,
            fused * step.decode_context,
            (1 - fused) * kv,
        )


def _kinds(roofline: Roofline, nothing_s: float) -> list[Work]:
    prefill_s, decode_s = roofline.prefill_attention_s(0, 0, 0), roofline.decode_attention_s(0)

    def pairs_s(pairs: float) -> float:
        return roofline.prefill_attention_s(0, int(pairs), 0) - prefill_s

    def kv_s(context: float) -> float:
        return roofline.decode_attention_s(int(context)) - decode_s

    curves: dict[str, Callable[[float], float]] = {
        "rows": lambda rows: roofline.step_s(StepShape(decode_rows=int(rows))) - nothing_s,
        "sampled": lambda rows: roofline.step_s(StepShape(sampled=int(rows))) - nothing_s,
        "prefill_sequences": lambda count: prefill_s if count else 0.0,
        "prefill_tokens": lambda tokens: roofline.prefill_attention_s(int(tokens), 0, int(tokens)) - prefill_s,
        "prefill_pairs": pairs_s,
        "captured_pairs": lambda pairs: _CAPTURED * pairs_s(pairs),
        "decode_sequences": lambda count: decode_s if count else 0.0,
        "fused_kv": lambda context: _FUSED * kv_s(context),
        "decode_kv": kv_s,
    }
    return [Work(kind, curves[kind]) for kind in KINDS]

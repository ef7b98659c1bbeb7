"""What one step of the engine computes, as a cost model sees it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from harness.cost.clocks import PowerLimit


@dataclass(slots=True)
class StepShape:
    """The work in one step (one forward pass).

    Attributes:
        prefill_sequences: Sequences that compute a chunk of their prompt.
        prefill_tokens: Prompt tokens computed, summed over those.
        prefill_pairs: Query-key pairs of causal attention: for a chunk of ``q`` tokens after ``c`` tokens of
            context, ``q * c + q * (q + 1) / 2``.
        prefill_context: KV tokens those chunks read: sum of ``c + q``.
        decode_sequences: Sequences that compute one token.
        decode_rows: Rows the linear layers run beside the prompt tokens': ``decode_sequences``, or more where a CUDA
            graph pads.
        decode_context: KV tokens they read, their own new ones included; see :func:`read_tokens`.
        decode_max_context: KV tokens that the longest of them reads.
        sampled: Sequences whose next token is sampled (rows of the LM head).
        prefill_max_context: KV tokens that the longest of the chunks reads; taken for their mean where it is less.
    """

    prefill_sequences: int = 0
    prefill_tokens: int = 0
    prefill_pairs: int = 0
    prefill_context: int = 0
    decode_sequences: int = 0
    decode_rows: int = 0
    decode_context: int = 0
    decode_max_context: int = 0
    sampled: int = 0
    prefill_max_context: int = 0

    @property
    def kind(self) -> str:
        """``decode``, ``prefill`` or ``mixed``."""
        if not self.prefill_sequences:
            return "decode"
        return "mixed" if self.decode_sequences else "prefill"


def read_tokens(context: int, shared: int, saves: float) -> int:
    """KV tokens that decodes read from memory, where some sequences share pages of a prefix.

    Who reads a page just after another finds it in the L2 cache: that takes a part of the time.

    Args:
        context: Tokens of all sequences.
        shared: Of these, those that another sequence reads as well, counted once less than they are read.
        saves: See :attr:`CostModel.shared_saves`.
    """
    return max(context - int(saves * shared), 0)


class CostModel(ABC):
    """Seconds for a step of the engine, a pure function of its shape.

    Attributes:
        shared_saves: Part of the time to read a token of KV that is saved where another sequence of the step reads it
            too, from 0 to 1. Decodes of Qwen3-8B save 0.57 on an H200 and 0.78 on an H100, by Triton's kernels 0.46.
        power_limit: How the device's clocks, and with them these seconds, follow the steps before; None where they are
            not known to.
    """

    shared_saves: float = 0.4
    power_limit: PowerLimit | None = None

    @abstractmethod
    def step_s(self, shape: StepShape) -> float:
        """Seconds that the device is busy with this step."""

    @abstractmethod
    def decode_s(
        self, sequences: int, rows: int, context: npt.NDArray[np.int64], longest: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float64]:
        """``step_s`` of pure decode steps that differ in their context alone, bit for bit the same.

        Args:
            sequences: Sequences in every one of the steps (all are sampled).
            rows: Rows of the linear layers in every one of the steps.
            context: (steps,) KV tokens that each step reads.
            longest: (steps,) KV tokens that the longest sequence of each step reads.

        Returns:
            (steps,) seconds.
        """

    @abstractmethod
    def launch_s(self, shape: StepShape, graph: bool) -> tuple[float, float]:
        """What it takes to launch the step.

        Returns:
            Seconds of CPU time to enqueue its kernels: one graph replay, or a launch for each; and the lead: seconds
            that the device begins the step before an eager launch ends, since it runs what is enqueued so far. The lead
            is 0 where the device begins when all is enqueued, as with a graph.
        """

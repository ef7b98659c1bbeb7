"""What the serving loop needs of an engine. No torch here: a modelled engine is one too."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Generic, TypeVar

from runtime.engine.params import SamplingParams
from runtime.scheduler.batch import Batch

TicketT = TypeVar("TicketT")


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Log-probabilities at one sampled position, natural logarithm, before temperature, penalties and truncation.

    Attributes:
        logprob: Of the chosen token.
        top_ids: The likeliest tokens, likeliest first.
        top_logprobs: Theirs.
    """

    logprob: float
    top_ids: list[int]
    top_logprobs: list[float]


@dataclass(frozen=True, slots=True)
class StepRun:
    """How the device ran a step.

    Attributes:
        start_s: When it began, on the machine's monotonic clock.
        duration_s: Until its tokens were sampled: the device's own time where it has a clock.
        padded_sequences: Sequences that it ran, padding included.
        graph: Whether it was replayed as a CUDA graph.
    """

    start_s: float
    duration_s: float
    padded_sequences: int
    graph: bool


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step sampled.

    Attributes:
        tokens: The next token of each sequence of ``batch.sampled()``, in that order; None where the outputs of all of
            them were foretold. It is what ``Scheduler.commit`` takes.
        logprobs: For each of them, or None where its request did not ask; empty where none did.
        run: How the device ran it; None where the engine does not know.
    """

    tokens: list[int] | None
    logprobs: list[TokenLogprobs | None]
    run: StepRun | None = None


class Engine(ABC, Generic[TicketT]):
    """Runs the steps that a scheduler plans, in the order they are launched."""

    @abstractmethod
    def admit(self, request_id: int, params: SamplingParams) -> None:
        """A request came; it may be in a batch from now on. One that was never admitted is sampled greedily."""

    @abstractmethod
    def forget(self, request_id: int) -> None:
        """A request has ended, and no batch will be launched that holds it; unknown ones are ignored."""

    @abstractmethod
    def launch(self, batch: Batch) -> TicketT:
        """Begin a step, without waiting for it or for those before it.

        The input token of a decode is the one that the step before sampled for its row, wherever that step stands.
        """

    @abstractmethod
    def collect(self, ticket: TicketT) -> StepResult:
        """Wait for a step to end; steps are collected in the order they were launched.

        Raises:
            Exception: Whatever the step died of.
        """

    def warm_up(self, step_tokens: int) -> None:
        """Run what the first steps would be slow to run, before there are any.

        It changes nothing that later steps compute. All ranks call it together.

        Args:
            step_tokens: The most prompt tokens in a step.
        """

    def close(self) -> None:
        """Release what the engine holds; steps launched are finished first."""

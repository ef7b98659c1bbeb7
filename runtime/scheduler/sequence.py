"""A request inside the server."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from runtime.scheduler.prefix.base import Node

TokenIds = npt.NDArray[np.int32]


class State(Enum):
    """Where a sequence stands."""

    WAITING = auto()  # queued: no row, no pages
    RUNNING = auto()  # admitted
    LEAVING = auto()  # finished, aborted or preempted, while a step in flight still refers to its row and pages
    DONE = auto()


class Sequence:
    """One request's tokens and how far they have come.

    Three lengths say it all: ``cached <= computed <= total``. Tokens up to ``cached`` are held by the prefix cache,
    tokens up to ``computed`` have their KV written by a step that was launched, tokens up to ``total`` are known or on
    their way from a step in flight. ``output_tokens`` counts the committed ones alone: a finish is judged by them.

    Args:
        request_id: Identity, unique among the requests in the server.
        prompt_tokens: Length of the prompt, at least 1.
        tokens: The prompt's ids, int32; or a function that makes them when first needed, so that a queue of thousands
            of long prompts holds none.
        max_tokens: The most output tokens, at least 1.
        foretold_tokens: Where a replay knows it, how many output tokens there will be; ``tokens`` then holds the
            output behind the prompt, and the engine's tokens are not asked for.
        stop_ids: Token ids that end the sequence.
        priority: Larger is more urgent.
        deadline_s: When the last token is wanted, on the scheduler's clock, or NaN.
        session_id: Conversation, or -1.
        client_id: Tenant, or -1.
    """

    __slots__ = (
        "_source",
        "_tokens",
        "cached",
        "chunks",
        "client_id",
        "computed",
        "deadline_s",
        "end_tokens",
        "evicted_tokens",
        "finish_reason",
        "foretold_tokens",
        "held_pages",
        "hit_tokens",
        "last_step",
        "max_tokens",
        "node",
        "ordinal",
        "output_tokens",
        "predicted_tokens",
        "preempted_at_s",
        "preempted_s",
        "preemptions",
        "prefill_end",
        "priority",
        "prompt_tokens",
        "queued_s",
        "recomputed_tokens",
        "request_id",
        "row",
        "session_id",
        "state",
        "stop_ids",
        "total",
    )

    def __init__(
        self,
        request_id: int,
        prompt_tokens: int,
        tokens: TokenIds | Callable[[], TokenIds],
        max_tokens: int,
        *,
        foretold_tokens: int | None = None,
        stop_ids: frozenset[int] = frozenset(),
        priority: int = 0,
        deadline_s: float = float("nan"),
        session_id: int = -1,
        client_id: int = -1,
    ) -> None:
        self.request_id = request_id
        self.prompt_tokens = prompt_tokens
        self.max_tokens = max_tokens
        self.foretold_tokens = foretold_tokens
        self.stop_ids = stop_ids
        self.priority = priority
        self.deadline_s = deadline_s
        self.session_id = session_id
        self.client_id = client_id
        self._source = tokens
        self._tokens: TokenIds | None = None

        self.cached = 0
        self.computed = 0
        self.total = prompt_tokens
        self.output_tokens = 0
        self.end_tokens = max_tokens if foretold_tokens is None else min(max_tokens, foretold_tokens)
        self.state = State.WAITING
        self.finish_reason: str | None = None

        # Set by the scheduler when it is queued.
        self.ordinal = -1
        self.queued_s = 0.0
        self.predicted_tokens = max_tokens

        # Held while it runs.
        self.row = -1  # in the page table
        self.held_pages = 0  # entries of its row in use
        self.node: Node | None = None  # the deepest node of the prefix cache that it locks
        self.prefill_end = prompt_tokens  # tokens to compute before the next one is sampled
        self.last_step = -1  # the last step launched that refers to it

        # What happened to it.
        self.hit_tokens = 0  # found in the prefix cache at first admission
        self.chunks = 0
        self.preemptions = 0
        self.preempted_at_s = 0.0  # when it last was
        self.preempted_s = 0.0  # between a preemption and the next admission, summed
        self.recomputed_tokens = 0
        self.evicted_tokens = 0  # computed when it was last preempted

    @property
    def tokens(self) -> TokenIds:
        """The ids known so far, prompt and output; behind ``total`` the array holds nothing meaningful."""
        if self._tokens is None:
            self._tokens = self._source() if callable(self._source) else self._source
        return self._tokens

    def append(self, token: int) -> None:
        """Record the next output token (``output_tokens`` still counts those before it)."""
        tokens, position = self.tokens, self.prompt_tokens + self.output_tokens
        if position >= len(tokens):
            tokens = np.concatenate([tokens, np.zeros(max(len(tokens), 16), np.int32)])
            self._tokens = tokens
        tokens[position] = token

    @property
    def in_prefill(self) -> bool:
        """Whether prompt tokens (or, after a preemption, tokens to recompute) are left."""
        return self.computed < self.prefill_end

    def __repr__(self) -> str:
        return (
            f"Sequence({self.request_id}, {self.state.name}, cached={self.cached} computed={self.computed} "
            f"total={self.total})"
        )

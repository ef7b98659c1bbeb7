"""What a policy may see: read-only views of a sequence, of the cache and of the scheduler.

The scheduler's own objects satisfy these protocols; a policy never imports the server.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt


class RequestView(Protocol):
    """Who a request is: what the eviction policy is told of those that use a path of the prefix tree."""

    @property
    def request_id(self) -> int:
        """Identity of the request."""

    @property
    def priority(self) -> int:
        """Larger is more urgent."""

    @property
    def session_id(self) -> int:
        """Conversation, or -1."""

    @property
    def client_id(self) -> int:
        """Tenant, or -1."""


class SequenceView(RequestView, Protocol):
    """A request inside the server, as a policy sees it.

    ``cached <= computed <= total``: tokens at the front that the prefix cache holds, tokens whose KV a launched step
    has written, tokens known or on their way.
    """

    @property
    def ordinal(self) -> int:
        """Position in the order in which the scheduler received requests: unique, the last word in every tie."""

    @property
    def queued_s(self) -> float:
        """When the scheduler received it, seconds."""

    @property
    def prompt_tokens(self) -> int:
        """Length of the prompt, tokens."""

    @property
    def max_tokens(self) -> int:
        """The most output tokens it may produce."""

    @property
    def predicted_tokens(self) -> int:
        """Output tokens it will produce in all, as the prediction policy had it when it was queued."""

    @property
    def foretold_tokens(self) -> int | None:
        """Output tokens it will really produce, where a replay knows: for the prediction policy's eyes alone."""

    @property
    def cached(self) -> int:
        """Tokens at the front that the prefix cache holds."""

    @property
    def computed(self) -> int:
        """Tokens whose KV is written by steps launched so far."""

    @property
    def total(self) -> int:
        """Tokens of prompt and output, those of the step in flight included."""

    @property
    def tokens(self) -> npt.NDArray[np.int32]:
        """The ids known so far: (``total``,) or more, int32. Made when first asked for, so ask it of a few."""

    @property
    def output_tokens(self) -> int:
        """Output tokens that are committed; those of the step in flight are not."""

    @property
    def deadline_s(self) -> float:
        """When the last token is wanted, seconds on the scheduler's clock, or NaN."""

    @property
    def preemptions(self) -> int:
        """How often it was preempted."""


class CacheNode(Protocol):
    """An edge of the prefix tree: a run of whole pages of tokens after its parent's."""

    @property
    def parent(self) -> CacheNode | None:
        """The node before, None at the root."""

    @property
    def is_leaf(self) -> bool:
        """Whether nothing in the tree continues it."""

    @property
    def locks(self) -> int:
        """Running sequences that read it; above 0 it cannot go."""

    @property
    def serial(self) -> int:
        """Unique number of the node."""

    @property
    def key(self) -> bytes:
        """Its tokens, as the bytes of their int32 ids."""

    @property
    def inserted(self) -> int:
        """Insertions into the tree when its tokens entered: smaller is older. Both halves of a split keep it."""

    @property
    def hits(self) -> int:
        """Requests that used it, the one that brought it included."""

    @property
    def pages(self) -> int:
        """How many pages it holds."""

    @property
    def end(self) -> int:
        """Tokens from the start of the prompt to the node's end."""


class SchedulerView(Protocol):
    """The scheduler's state at the moment of a decision."""

    @property
    def waiting_sequences(self) -> int:
        """Sequences queued, not admitted."""

    @property
    def prefilling_sequences(self) -> int:
        """Admitted sequences with prompt tokens left to compute."""

    @property
    def decoding_sequences(self) -> int:
        """Admitted sequences past their prompt."""

    @property
    def prefilling_tokens(self) -> int:
        """What is computed of the admitted sequences with prompt tokens left, all together."""

    @property
    def decoding_tokens(self) -> int:
        """Context of the admitted sequences past their prompt, all together."""

    @property
    def max_running(self) -> int:
        """The most sequences admitted at once."""

    @property
    def page_size(self) -> int:
        """Tokens a page."""

    @property
    def available_pages(self) -> int:
        """Pages free or held only by the cache."""

    def cached_prefix(self, sequence: SequenceView) -> int:
        """Tokens at the front of a waiting sequence that the prefix cache holds now."""

    def cached_node(self, sequence: SequenceView) -> CacheNode | None:
        """The deepest node of the prefix tree that they reach into, the root where it holds none; None with no tree."""

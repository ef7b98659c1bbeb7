"""Tensor-parallel ranks in step: rank 0 tells the others what it took in and, by a checksum, what it decided.

Every rank runs the same scheduler on the same messages at the same ``now``, and so decides alike. One that does not is
found before it launches a step that the others would wait for.
"""

from __future__ import annotations

from collections.abc import Sequence as Sequences
from typing import Protocol

from runtime.messages import Abort, Decision, Stop, Tokenized, Turn
from runtime.scheduler import Batch
from runtime.server.mail import Inbox, Outbox

RankMessage = Tokenized | Abort | Stop


class OutOfStepError(RuntimeError):
    """A rank took another decision than rank 0."""


class Checksum:
    """Runs over all decisions and tokens. Python hashes integers alike in every process."""

    def __init__(self) -> None:
        self.value = 0

    def decide(self, batch: Batch) -> None:
        """Take in a batch: who, where and how much, and the state it was planned in."""
        self.value = hash(
            (
                self.value,
                batch.step,
                *[(chunk.sequence.request_id, chunk.start, chunk.tokens) for chunk in batch.chunks],
                *[sequence.request_id for sequence in batch.decodes],
                *batch.positions,
                *batch.snapshot,
            )
        )

    def sample(self, tokens: Sequences[int]) -> None:
        """Take in a step's tokens."""
        self.value = hash((self.value, *tokens))


class Conductor(Protocol):
    """A rank's part in keeping step."""

    def decide(self, batch: Batch) -> None:
        """About to launch this batch."""

    def sample(self, tokens: Sequences[int]) -> None:
        """These tokens were collected."""


class Alone:
    """The only rank: nobody to tell."""

    def decide(self, batch: Batch) -> None:
        """Nobody asks."""

    def sample(self, tokens: Sequences[int]) -> None:
        """Nobody asks."""


class Leader:
    """Rank 0.

    Args:
        outbox: Its own.
        others: Inboxes of the other ranks.
    """

    def __init__(self, outbox: Outbox, others: Sequences[str]) -> None:
        self._outbox = outbox
        self._others = others
        self._turn = -1
        self._checksum = Checksum()

    def turn(self, now: float, messages: list[RankMessage]) -> None:
        """Tell the others what the serving loop takes in."""
        self._turn += 1
        self._tell(Turn(self._turn, now, messages))

    def decide(self, batch: Batch) -> None:
        """Tell them what it is about to launch."""
        self._checksum.decide(batch)
        self._tell(Decision(self._turn, self._checksum.value))

    def sample(self, tokens: Sequences[int]) -> None:
        """Tokens count among the decisions: the next ones follow from them."""
        self._checksum.sample(tokens)

    def _tell(self, message: Turn | Decision) -> None:
        for other in self._others:
            self._outbox.send(other, message)


class Follower:
    """Any other rank.

    Args:
        rank: Which.
        inbox: Its own: what the leader tells.
    """

    def __init__(self, rank: int, inbox: Inbox) -> None:
        self._rank = rank
        self._inbox = inbox
        self._turn = -1
        self._checksum = Checksum()

    def turn(self) -> Turn:
        """What rank 0's serving loop took in, waiting for it.

        Raises:
            OutOfStepError: Rank 0 launched a step that this rank did not plan.
        """
        message = self._inbox.next()
        self._turn += 1
        if not (isinstance(message, Turn) and message.number == self._turn):
            raise OutOfStepError(f"rank {self._rank} is out of step: it planned nothing, rank 0 sent {message}")
        return message

    def decide(self, batch: Batch) -> None:
        """Compare with rank 0 before anything is launched.

        Raises:
            OutOfStepError: Rank 0 decided otherwise.
        """
        self._checksum.decide(batch)
        message = self._inbox.next()
        if message != Decision(self._turn, self._checksum.value):
            raise OutOfStepError(
                f"rank {self._rank} is out of step in turn {self._turn}, step {batch.step}: its checksum is "
                f"{self._checksum.value}, rank 0 sent {type(message).__name__} {getattr(message, 'checksum', '')}"
            )

    def sample(self, tokens: Sequences[int]) -> None:
        """See :meth:`Leader.sample`."""
        self._checksum.sample(tokens)

"""The stages of a request's life, from its arrival to its last token at the client, and the moments between them."""

from __future__ import annotations

from typing import NamedTuple


class Stage(NamedTuple):
    """A stretch of a request's life.

    Attributes:
        name: In words.
        start: Column of the request table in which it begins, seconds.
        end: And in which it ends.
    """

    name: str
    start: str
    end: str


STAGES = (  # each begins where the one before it ends: together they are the E2E
    Stage("send lag", "arrival_s", "sent_s"),
    Stage("to the API server", "sent_s", "received_s"),
    Stage("tokenize", "received_s", "tokenized_s"),
    Stage("to the scheduler", "tokenized_s", "queued_s"),
    Stage("queue", "queued_s", "scheduled_s"),
    Stage("prefill", "scheduled_s", "first_token_s"),
    Stage("decode", "first_token_s", "last_token_s"),
    Stage("detokenize", "last_token_s", "detokenized_s"),
    Stage("send back", "detokenized_s", "sent_back_s"),
    Stage("to the client", "sent_back_s", "client_last_token_s"),
)


def stage(name: str) -> Stage:
    """The stage of that name."""
    return next(stage for stage in STAGES if stage.name == name)


def span(name: str, first: str, last: str) -> Stage:
    """Stages one after another as one: from the beginning of ``first`` to the end of ``last``."""
    return Stage(name, stage(first).start, stage(last).end)

"""What a server of given sizes can never run: it is refused when it comes, not when it is its turn."""

from __future__ import annotations

from runtime.scheduler.config import SchedulerConfig
from runtime.scheduler.sequence import Sequence


class RequestRejectedError(ValueError):
    """A request that this server can never run; the message says which limit it exceeds."""


def check_limits(sequence: Sequence, config: SchedulerConfig) -> None:
    """See that a sequence can run, alone at least.

    Raises:
        RequestRejectedError: It has no tokens, asks for none, or exceeds the context or the KV memory.
    """
    longest = sequence.prompt_tokens + sequence.max_tokens
    # The last output token's KV is never needed.
    pages = -(-(longest - 1) // config.page_size)
    if sequence.prompt_tokens < 1:
        problem = "the prompt is empty"
    elif sequence.max_tokens < 1:
        problem = f"max_tokens={sequence.max_tokens}: at least 1"
    elif longest > config.max_context:
        problem = (
            f"{sequence.prompt_tokens} prompt + {sequence.max_tokens} output tokens exceed the context of "
            f"{config.max_context}"
        )
    elif pages > config.pages:
        problem = (
            f"{sequence.prompt_tokens} prompt + {sequence.max_tokens} output tokens need {pages} pages of KV, the "
            f"server has {config.pages}"
        )
    else:
        return
    raise RequestRejectedError(f"request {sequence.request_id}: {problem}")

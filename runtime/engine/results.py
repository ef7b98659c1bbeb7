"""From what a step sampled to what its requests are told."""

from __future__ import annotations

from runtime.engine.engine import TokenLogprobs
from runtime.engine.sampler import Sampled


def token_logprobs(sampled: Sampled, wanted: list[int] | None) -> list[TokenLogprobs | None]:
    """Each sampled sequence's log-probabilities.

    Args:
        sampled: Of the step.
        wanted: How many likeliest tokens each sequence wants, -1 for not even the chosen one's; None where none does.
    """
    if wanted is None or sampled.logprobs is None or sampled.top_ids is None or sampled.top_logprobs is None:
        return []
    each = zip(wanted, sampled.logprobs.tolist(), sampled.top_ids.tolist(), sampled.top_logprobs.tolist(), strict=True)
    return [
        None if count < 0 else TokenLogprobs(mine, ids[:count], values[:count]) for count, mine, ids, values in each
    ]

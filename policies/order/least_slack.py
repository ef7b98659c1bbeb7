"""Least slack first."""

from __future__ import annotations

import math

from policies.errors import PolicyError
from policies.order.base import Order
from policies.views import SequenceView


class LeastSlack(Order):
    """Least slack first (Mok 1983): the deadline less the time that the rest of the work takes.

    The work is estimated from its tokens. While they wait all lose slack at one pace, so ranks among them never
    change. Those without a deadline come last.

    Args:
        prefill_token_s: Seconds for a token to prefill, nothing cached; the default is Qwen3-8B's on an H100.
        decode_token_s: Seconds for a predicted output token.

    Raises:
        PolicyError: One is negative.
    """

    def __init__(self, prefill_token_s: float = 24e-6, decode_token_s: float = 0.02) -> None:
        for name, value in (("prefill_token_s", prefill_token_s), ("decode_token_s", decode_token_s)):
            if not value >= 0:
                raise PolicyError(f"policy.order.{name}={value}: seconds, not negative")
        self._prefill_token_s, self._decode_token_s = prefill_token_s, decode_token_s

    def key(self, sequence: SequenceView) -> float:
        if math.isnan(sequence.deadline_s):
            return math.inf
        produced = sequence.total - sequence.prompt_tokens
        decode_s = self._decode_token_s * max(sequence.predicted_tokens - produced, 1)
        return sequence.deadline_s - (self._prefill_token_s * sequence.total + decode_s)

"""Greedy-dual size frequency."""

from __future__ import annotations

from policies.errors import PolicyError
from policies.eviction.lfuda import Lfuda
from policies.views import CacheNode


class Gdsf(Lfuda):
    """The smallest ``uses * cost / size + age at its last use``: what is cheap to compute again goes first.

    Cherkasova, HP Labs 1998 (HPL-98-69R1). The cost is that of computing the node's tokens at their depth, so cost over
    size is 1 for the linear layers, and for attention the node's mean depth over ``attention_tokens``.

    Args:
        attention_tokens: Context at which attention costs as much as all linear layers, tokens: 24,000 for Qwen3-8B
            (2 * parameters of the layers / (4 * layers * heads * head size)).

    Raises:
        PolicyError: It is not positive.
    """

    def __init__(self, attention_tokens: float = 24_000.0) -> None:
        super().__init__()
        if not attention_tokens > 0:
            raise PolicyError(
                f"policy.eviction.attention_tokens={attention_tokens}: expected a positive number of tokens, e.g. 24000"
            )
        self._attention_tokens = attention_tokens

    def value(self, node: CacheNode) -> float:
        begin = node.parent.end if node.parent is not None else 0
        return 1.0 + (begin + node.end) / 2 / self._attention_tokens

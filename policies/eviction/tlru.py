"""Tail-optimized LRU."""

from __future__ import annotations

from policies.eviction.queues import Place, QueuedEviction
from policies.views import CacheNode

SAFE, NEEDED = range(2)


class Tlru(QueuedEviction):
    """LRU, but first what no conversation needs to keep its next first token within the budget (SGLang's tlru).

    Zhang et al., Tail-Optimized Caching for LLM Inference, 2025 (arXiv 2510.15152). A conversation of ``L`` tokens
    whose next turn adds ``next_tokens`` computes no more than ``budget_tokens`` as long as its first
    ``L + next_tokens - budget_tokens`` tokens are cached: a node that begins behind those is free to go.

    Args:
        budget_tokens: Tokens of prefill that the limit on TTFT leaves time for.
        next_tokens: Tokens that a next turn is expected to add.
    """

    def __init__(self, budget_tokens: int = 4096, next_tokens: int = 512) -> None:
        super().__init__(queues=2)
        self._spare = budget_tokens - next_tokens
        self._reach: dict[int, int] = {}  # by serial: the longest conversation through the node so far, tokens

    def put(self, node: CacheNode, place: Place) -> None:
        reach = self._reach[node.serial] = max(self._reach.get(node.serial, 0), node.end)
        begin = node.parent.end if node.parent is not None else 0
        place.queue = SAFE if begin >= reach - self._spare else NEEDED
        place.rank = self.clock

    def gone(self, node: CacheNode, place: Place) -> None:
        del place
        self._hand_up(node, self._reach.pop(node.serial))

    def released(self, node: CacheNode) -> None:
        super().released(node)
        self._hand_up(node, self._reach[node.serial])

    def _hand_up(self, node: CacheNode, reach: int) -> None:
        above = node.parent
        if above is not None and self._reach.get(above.serial, 0) < reach:
            self._reach[above.serial] = reach

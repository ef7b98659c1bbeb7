"""Prefix-aware greedy-dual size frequency."""

from __future__ import annotations

from policies.errors import PolicyError
from policies.eviction.gdsf import Gdsf
from policies.eviction.queues import Place
from policies.recent import REQUESTS, Recent
from policies.views import CacheNode, RequestView


class Pgdsf(Gdsf):
    """GDSF with the cost for each token of the prefill that computed the node, behind what was cached then.

    RAGCache (Jin et al., 2024, arXiv 2404.12457) looks up in a profile of the engine what it takes to compute so many
    tokens behind so many cached ones. Here it is the shape of such a profile: fewer than ``floor_tokens`` take the
    linear layers as long as those, and attention grows with the context. So what little was computed behind a long
    cached prefix is dear, which GDSF does not see. RAGCache averages over all computations of a document; here what is
    evicted is forgotten, so that there is one.

    Args:
        attention_tokens: See :class:`Gdsf`.
        floor_tokens: A prefill of fewer tokens takes as long as one of these, since the weights are read once:
            operations per byte of the GPU, about 300 for bf16 on an H100.

    Raises:
        PolicyError: A parameter is out of range.
    """

    def __init__(self, attention_tokens: float = 24_000.0, floor_tokens: float = 300.0) -> None:
        super().__init__(attention_tokens)
        if not floor_tokens >= 0:
            raise PolicyError(f"policy.eviction.floor_tokens={floor_tokens}: expected 0 or more tokens, e.g. 300")
        self._floor_tokens = floor_tokens
        self._costs: dict[int, float] = {}  # for each token, by serial
        self._cached = Recent[int](REQUESTS)  # tokens that it found

    def used(self, node: CacheNode, request: RequestView) -> None:
        cached = self._cached.get(request.request_id, 0)
        if node.serial in self._costs:
            self._cached[request.request_id] = max(cached, node.end)
        else:
            tokens = node.end - cached
            context = (cached + node.end) / 2
            self._costs[node.serial] = max(self._floor_tokens / tokens, 1.0) + context / self._attention_tokens

    def value(self, node: CacheNode) -> float:
        return self._costs[node.serial]

    def gone(self, node: CacheNode, place: Place) -> None:
        super().gone(node, place)
        del self._costs[node.serial]

    def split(self, upper: CacheNode, lower: CacheNode) -> None:
        super().split(upper, lower)
        self._costs[upper.serial] = self._costs[lower.serial]

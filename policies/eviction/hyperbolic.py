"""Hyperbolic caching."""

from __future__ import annotations

from collections.abc import Sequence

from policies.eviction.sampled import Leaf, SampledEviction
from policies.views import CacheNode


class Hyperbolic(SampledEviction):
    """The fewest uses for the time since the tokens entered (Blankstein, Sen and Freedman, USENIX ATC 2017).

    Time is counted in insertions. What is popular fades as it grows old, at any age.
    """

    def __init__(self, samples: int = 64, seed: int = 0) -> None:
        super().__init__(samples, seed)
        self._now = 0  # the latest insertion seen

    def released(self, node: CacheNode) -> None:
        self._now = max(self._now, node.inserted)
        super().released(node)

    def worth(self, leaves: Sequence[Leaf]) -> list[float]:
        next_insertion = self._now + 1
        return [node.hits / (next_insertion - node.inserted) for node, _, _ in leaves]

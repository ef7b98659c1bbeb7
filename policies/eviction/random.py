"""Random replacement."""

from __future__ import annotations

from collections.abc import Sequence

from policies.eviction.sampled import Leaf, SampledEviction


class RandomEviction(SampledEviction):
    """Any leaf, all alike: a sample of one.

    Args:
        seed: Another seed, other draws.
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__(samples=1, seed=seed)

    def worth(self, leaves: Sequence[Leaf]) -> list[float]:
        return [0.0] * len(leaves)

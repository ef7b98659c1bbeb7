"""FLOP-aware eviction."""

from __future__ import annotations

from collections.abc import Sequence

from policies.errors import PolicyError
from policies.eviction.sampled import SampledEviction
from policies.views import CacheNode


class FlopAware(SampledEviction):
    """The smallest ``recency + weight * FLOP efficiency``, each scaled to 0..1 over the leaves compared.

    Marconi (Pan et al., MLSys 2025). The efficiency is the operations that a hit saves for each byte kept: the linear
    layers save the same everywhere, attention the more the deeper the node lies. Marconi tunes the weight while it
    runs; here it is given. With weight 0 this is LRU by sampling.

    Args:
        weight: Of efficiency against recency (Marconi's alpha).
        attention_tokens: Context at which attention costs as much as all linear layers, tokens (see ``gdsf``).
        samples: How many leaves to compare.
        seed: Another seed, other draws.

    Raises:
        PolicyError: A parameter is out of range.
    """

    def __init__(
        self, weight: float = 0.5, attention_tokens: float = 24_000.0, samples: int = 64, seed: int = 0
    ) -> None:
        super().__init__(samples, seed)
        if not weight >= 0:
            raise PolicyError(f"policy.eviction.weight={weight}: expected 0 or more, e.g. 0.5")
        if not attention_tokens > 0:
            raise PolicyError(
                f"policy.eviction.attention_tokens={attention_tokens}: expected a positive number of tokens, e.g. 24000"
            )
        self._weight, self._attention_tokens = weight, attention_tokens

    def least(self, leaves: Sequence[CacheNode]) -> CacheNode:
        recency = _scaled([-float(self.age(node)) for node in leaves])
        efficiency = _scaled([self._efficiency(node) for node in leaves])
        worth = [r + self._weight * e for r, e in zip(recency, efficiency, strict=True)]
        return min(zip(worth, leaves, strict=True), key=lambda pair: (pair[0], pair[1].serial))[1]

    def _efficiency(self, node: CacheNode) -> float:
        begin = node.parent.end if node.parent is not None else 0
        return 1.0 + (begin + node.end) / 2 / self._attention_tokens


def _scaled(values: list[float]) -> list[float]:
    low, high = min(values), max(values)
    return [(value - low) / (high - low) if high > low else 0.0 for value in values]

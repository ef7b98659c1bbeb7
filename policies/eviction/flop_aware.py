"""FLOP-aware eviction."""

from __future__ import annotations

from collections.abc import Sequence

from policies.errors import PolicyError
from policies.eviction.sampled import Leaf, SampledEviction
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

    def worth(self, leaves: Sequence[Leaf]) -> list[float]:
        _, times, efficiencies = zip(*leaves, strict=True)
        newest, oldest = max(times), min(times)
        high, low = max(efficiencies), min(efficiencies)
        of_time = 1.0 / max(newest - oldest, 1)
        of_efficiency = self._weight / (high - low) if high > low else 0.0
        return [(last - oldest) * of_time + (note - low) * of_efficiency for _, last, note in leaves]

    def note(self, node: CacheNode) -> float:
        """The efficiency, but for a constant factor."""
        begin = node.parent.end if node.parent is not None else 0
        return 1.0 + (begin + node.end) / 2 / self._attention_tokens

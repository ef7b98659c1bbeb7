"""Least hit density."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, log2

from policies.eviction.sampled import Leaf, SampledEviction
from policies.views import CacheNode

CLASSES = 4  # by uses: 1, 2, 3, more
STEPS = 4  # bins of age for each doubling
BINS = STEPS * 32
WIDTHS = tuple(2 ** (at / STEPS) * (2 ** (1 / STEPS) - 1) for at in range(BINS))
EVERY = 500  # events between two looks at the counts
KEPT = 0.9  # of the counts, at each look
TABLE = [  # the bin of each age that it knows
    at for at in range(STEPS * 16) for _ in range(ceil(2 ** (at / STEPS)), ceil(2 ** ((at + 1) / STEPS)))
]


class Lhd(SampledEviction):
    """The leaf with the fewest hits to expect for each page and moment that it would stay.

    LHD (Beckmann, Chen and Cidon, NSDI 2018): hits and evictions are counted by the age at which they happened, apart
    for nodes with different numbers of uses, and fade. Ages count releases, in bins on a logarithmic scale. Until there
    are counts it is LRU by sampling.
    """

    def __init__(self, samples: int = 64, seed: int = 0) -> None:
        super().__init__(samples, seed)
        self._hits = [[0.0] * BINS for _ in range(CLASSES)]
        self._evictions = [[0.0] * BINS for _ in range(CLASSES)]
        self._densities = [[1.0 / (at + 1) for at in range(BINS)] for _ in range(CLASSES)]
        self._events = 0

    def worth(self, leaves: Sequence[Leaf]) -> list[float]:
        clock, tabled = self.clock, len(TABLE)
        return [row[TABLE[age] if (age := clock - last) < tabled else _bin(age)] for _, last, row in leaves]

    def note(self, node: CacheNode) -> list[float]:
        """The densities that apply; they are looked at again in place."""
        return self._densities[_class(node.hits)]

    def returned(self, node: CacheNode, age: int) -> None:
        self._count(self._hits, node.hits - 1, age)

    def removed(self, node: CacheNode) -> None:
        self._count(self._evictions, node.hits, self.age(node))
        super().removed(node)

    def _count(self, counts: list[list[float]], uses: int, age: int) -> None:
        counts[_class(uses)][_bin(age)] += 1
        self._events += 1
        if self._events % EVERY == 0:
            self._look()

    def _look(self) -> None:
        for hits, evictions, densities in zip(self._hits, self._evictions, self._densities, strict=True):
            ends = found = time = 0.0  # at this age or later: events, hits among them, and the time until them
            for at in range(BINS - 1, -1, -1):
                ends += hits[at] + evictions[at]
                found += hits[at]
                time += ends * WIDTHS[at]
                densities[at] = found / time if time else 0.0
                hits[at] *= KEPT
                evictions[at] *= KEPT


def _class(uses: int) -> int:
    return min(max(uses, 1), CLASSES) - 1


def _bin(age: int) -> int:
    return TABLE[age] if age < len(TABLE) else min(int(STEPS * log2(age + 1)), BINS - 1)

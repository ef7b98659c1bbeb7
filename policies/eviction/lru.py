"""Least recently used."""

from __future__ import annotations

from collections import OrderedDict

from policies.eviction.base import Eviction
from policies.views import CacheNode


class Lru(Eviction):
    """The leaf whose last reader left longest ago (SGLang and mini-sglang's default).

    No heap: paths are released tail first, so in order of release a child always stands before its parent, and the
    first node of the list is a leaf.
    """

    def __init__(self) -> None:
        self._nodes: OrderedDict[CacheNode, None] = OrderedDict()

    def released(self, node: CacheNode) -> None:
        self._nodes[node] = None

    def pinned(self, node: CacheNode) -> None:
        self._nodes.pop(node, None)

    def removed(self, node: CacheNode) -> None:
        del self._nodes[node]

    def victim(self) -> CacheNode:
        return next(iter(self._nodes))

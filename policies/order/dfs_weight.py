"""Depth first, where most wait."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from policies.order.base import PrefixOrder
from policies.views import CacheNode, SchedulerView, SequenceView


class DfsWeight(PrefixOrder):
    """Depth first through the prefix tree, the branch with most waiting sequences first (SGLang's dfs-weight).

    Sequences that share a cached prefix are admitted together, those that match further before those that match less.
    """

    def by_prefix(self, waiting: Sequence[SequenceView], scheduler: SchedulerView) -> list[SequenceView]:
        ends: dict[int, list[SequenceView]] = defaultdict(list)  # by serial of the deepest node that they match
        weight: dict[int, int] = defaultdict(int)  # sequences at or below a node
        children: dict[int, list[CacheNode]] = defaultdict(list)  # of those on a path, by their parent's serial
        matched: dict[int, int] = {}  # tokens, by ordinal
        root = None
        for sequence in waiting:
            node = scheduler.cached_node(sequence)
            if node is None:
                return list(waiting)  # no prefix is cached at all
            matched[sequence.ordinal] = scheduler.cached_prefix(sequence)
            ends[node.serial].append(sequence)
            root = self._climb(node, weight, children)
        arranged: list[SequenceView] = []
        # A stack in place of recursion: conversations of many turns make deep trees. A node is visited twice: first its
        # branches go on the stack above it, then, when they are done, its own sequences are taken.
        stack = [] if root is None else [(root.serial, False)]
        while stack:
            serial, done = stack.pop()
            if done:
                arranged.extend(sorted(ends[serial], key=lambda s: (-matched[s.ordinal], s.ordinal)))
                continue
            stack.append((serial, True))
            branches = sorted(children[serial], key=lambda node: (weight[node.serial], -node.serial))
            stack.extend((node.serial, False) for node in branches)
        return arranged

    def _climb(self, node: CacheNode, weight: dict[int, int], children: dict[int, list[CacheNode]]) -> CacheNode:
        """Count a sequence on the whole path to its node; returns the root."""
        while node.parent is not None:
            if not weight[node.serial]:
                children[node.parent.serial].append(node)
            weight[node.serial] += 1
            node = node.parent
        return node

"""The prefix cache: KV of finished prefixes, kept for the requests that share them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np

from policies.views import RequestView
from runtime.scheduler.pages import PageIds
from runtime.scheduler.sequence import TokenIds

NO_PAGES: PageIds = np.empty(0, np.int32)


class Node:
    """An edge of the radix tree: a run of whole pages of tokens.

    Attributes:
        key: The tokens, as the bytes of their int32 ids.
        held: Their pages.
        parent: The node before, None at the root.
        children: By the bytes of their first page of tokens.
        locks: Running sequences that read this node; an ancestor has at least as many.
        serial: Unique number.
        inserted: Insertion that brought the tokens.
        hits: Requests that used it.
        end: Tokens from the start of the prompt to the end of this edge.
    """

    __slots__ = ("children", "end", "held", "hits", "inserted", "key", "locks", "parent", "serial")

    def __init__(self, serial: int, key: bytes, held: PageIds, parent: Node | None, inserted: int) -> None:
        self.serial = serial
        self.key = key
        self.held = held
        self.parent = parent
        self.children: dict[bytes, Node] = {}
        self.locks = 0
        self.inserted = inserted
        self.hits = 0
        self.end: int = (parent.end if parent else 0) + len(key) // 4

    @property
    def is_leaf(self) -> bool:
        """Whether nothing in the tree continues it."""
        return not self.children

    @property
    def pages(self) -> int:
        """How many pages it holds."""
        return len(self.held)


class Match(NamedTuple):
    """The longest prefix of some tokens that the cache holds.

    Attributes:
        tokens: Its length, whole pages.
        node: The deepest node that it reaches into.
        inside: Tokens of that node's edge that belong to the match; the whole edge unless the match ends within.
    """

    tokens: int
    node: Node | None
    inside: int


class PrefixCache(ABC):
    """Owns the pages that were inserted, until they are evicted.

    Attributes:
        evictable_pages: Pages on nodes that nothing locks.
        pages: Pages on all nodes.
    """

    evictable_pages: int = 0
    pages: int = 0

    @abstractmethod
    def match(self, tokens: TokenIds) -> Match:
        """The longest cached prefix of ``tokens``. Changes nothing."""

    @abstractmethod
    def newly_pinned(self, match: Match) -> int:
        """Evictable pages that :meth:`lock` would take away."""

    @abstractmethod
    def lock(self, match: Match, request: RequestView) -> tuple[Node | None, PageIds]:
        """Keep the matched prefix from eviction, and count the use.

        Args:
            match: What to lock.
            request: Who uses it: the eviction policy is told.

        Returns:
            The node to pass to :meth:`insert` and :meth:`unlock`, and the prefix's pages in order.
        """

    @abstractmethod
    def continues(self, node: Node | None, tokens: TokenIds) -> bool:
        """Whether the cache holds the first page of ``tokens`` behind a locked node."""

    @abstractmethod
    def insert(
        self, node: Node | None, tokens: TokenIds, pages: PageIds, request: RequestView
    ) -> tuple[Node | None, PageIds]:
        """Hand over the pages of tokens that follow a locked node; the lock moves on to their end.

        Args:
            node: The locked node.
            tokens: Tokens behind it, whole pages.
            pages: The pages that hold their KV.
            request: Who uses them: the eviction policy is told.

        Returns:
            The node that is locked now, and the duplicates among ``pages``: where another sequence brought the same
            tokens before, the cache keeps that sequence's pages, and these stay with the caller.
        """

    @abstractmethod
    def unlock(self, node: Node | None) -> None:
        """The sequence that locked the path to ``node`` reads it no longer."""

    @abstractmethod
    def evict(self, pages: int) -> PageIds:
        """Give up ``pages`` pages, at most ``evictable_pages``: leaves first, as the eviction policy says."""

"""The radix tree of token pages (RadixAttention: Zheng et al., NeurIPS 2024)."""

from __future__ import annotations

import numpy as np

from policies.eviction import Eviction
from policies.views import RequestView
from runtime.scheduler.pages import PageIds
from runtime.scheduler.prefix.base import NO_PAGES, Match, Node, PrefixCache
from runtime.scheduler.sequence import TokenIds

_ID_BYTES = 4


class RadixCache(PrefixCache):
    """Prefixes as paths of a tree; an edge is a run of whole pages and is compared token by token.

    Keys are the tokens themselves, so two prompts never share KV by a hash collision. A node can be evicted in part,
    from its tail, so that eviction frees exactly the pages asked for.

    Args:
        page_size: Tokens a page.
        eviction: Chooses the leaf to cut.
    """

    def __init__(self, page_size: int, eviction: Eviction) -> None:
        self._page_bytes = page_size * _ID_BYTES
        self._eviction = eviction
        self._serial = 0
        self._insertions = 0
        self.root = Node(serial=0, key=b"", held=NO_PAGES, parent=None, inserted=0)
        self.evictable_pages = 0
        self.pages = 0

    def match(self, tokens: TokenIds) -> Match:
        size = self._page_bytes
        raw = self._whole_pages(tokens)
        node, at = self.root, 0
        while child := node.children.get(raw[at : at + size]):
            key = child.key
            if raw[at : at + len(key)] != key:
                inside = self._common(raw, at, key)
                return Match((at + inside) // _ID_BYTES, child, inside // _ID_BYTES)
            node = child
            at += len(key)
        return Match(at // _ID_BYTES, node, len(node.key) // _ID_BYTES)

    def newly_pinned(self, match: Match) -> int:
        node = match.node
        if node is None or node.locks:
            return 0
        pages = match.inside * _ID_BYTES // self._page_bytes
        above = node.parent
        while above is not None and not above.locks:
            pages += len(above.held)
            above = above.parent
        return pages

    def lock(self, match: Match, request: RequestView) -> tuple[Node | None, PageIds]:
        node = match.node
        if node is None:
            raise ValueError("a match of another cache")
        inside = match.inside * _ID_BYTES
        if inside < len(node.key):
            node = self._split(node, inside)
        path = []
        above: Node | None = node
        while above is not None and above is not self.root:
            self._pin(above, request)
            path.append(above.held)
            above = above.parent
        return node, np.concatenate(path[::-1]) if path else NO_PAGES

    def continues(self, node: Node | None, tokens: TokenIds) -> bool:
        return node is not None and self._first_page(tokens) in node.children

    def insert(
        self, node: Node | None, tokens: TokenIds, pages: PageIds, request: RequestView
    ) -> tuple[Node | None, PageIds]:
        if node is None:
            raise ValueError("nothing is locked to insert behind")
        self._insertions += 1
        size = self._page_bytes
        raw = self._whole_pages(tokens)
        at = 0
        while child := node.children.get(raw[at : at + size]):
            shared = len(child.key)
            if raw[at : at + shared] != child.key:
                shared = self._common(raw, at, child.key)
                child = self._split(child, shared)
            self._pin(child, request)
            node = child
            at += shared
        known = at // size
        if at < len(raw):
            self._serial += 1
            leaf = Node(self._serial, raw[at:], pages[known:], node, self._insertions)
            leaf.locks = leaf.hits = 1
            node.children[raw[at : at + size]] = leaf
            self.pages += len(leaf.held)
            self._eviction.used(leaf, request)
            node = leaf
        return node, pages[:known]

    def unlock(self, node: Node | None) -> None:
        while node is not None and node is not self.root:
            node.locks -= 1
            if not node.locks:
                self.evictable_pages += len(node.held)
                self._eviction.released(node)
            node = node.parent

    def evict(self, pages: int) -> PageIds:
        if pages > self.evictable_pages:
            raise ValueError(f"{pages} pages to evict of {self.evictable_pages} evictable ones")
        self.pages -= pages
        self.evictable_pages -= pages
        taken: list[PageIds] = []
        while pages:
            node: Node = self._eviction.victim()  # type: ignore[assignment]  # it names nodes that we reported
            count = min(pages, len(node.held))
            # Tail first: evicting n pages at once or one by one frees the same pages in the same order.
            taken.append(node.held[: -count - 1 : -1])
            if count == len(node.held):
                self._remove(node)
            else:
                node.held = node.held[:-count]
                node.key = node.key[: -count * self._page_bytes]
                node.end -= count * self._page_bytes // _ID_BYTES
            pages -= count
        return taken[0] if len(taken) == 1 else np.concatenate([NO_PAGES, *taken])

    def _first_page(self, tokens: TokenIds) -> bytes:
        return tokens[: self._page_bytes // _ID_BYTES].tobytes()

    def _whole_pages(self, tokens: TokenIds) -> bytes:
        return tokens[: len(tokens) - len(tokens) % (self._page_bytes // _ID_BYTES)].tobytes()

    def _common(self, raw: bytes, at: int, key: bytes) -> int:
        """Bytes of ``key`` that stand at ``raw[at:]``, in whole pages."""
        count = min(len(raw) - at, len(key)) // _ID_BYTES
        differs = np.frombuffer(raw, np.int32, count, at) != np.frombuffer(key, np.int32, count)
        first = int(differs.argmax()) if differs.any() else count
        return first * _ID_BYTES // self._page_bytes * self._page_bytes

    def _pin(self, node: Node, request: RequestView) -> None:
        if not node.locks:
            self.evictable_pages -= len(node.held)
            self._eviction.pinned(node)
        node.locks += 1
        node.hits += 1
        self._eviction.used(node, request)

    def _split(self, node: Node, at: int) -> Node:
        """Cut an edge after ``at`` bytes; returns the new upper node, which the caller pins."""
        parent = node.parent
        if parent is None:
            raise ValueError("the root has no edge to split")
        self._serial += 1
        pages = at // self._page_bytes
        upper = Node(self._serial, node.key[:at], node.held[:pages], parent, node.inserted)
        upper.locks, upper.hits = node.locks, node.hits
        parent.children[node.key[: self._page_bytes]] = upper
        node.key, node.held, node.parent = node.key[at:], node.held[pages:], upper
        upper.children[node.key[: self._page_bytes]] = node
        self._eviction.split(upper, node)
        return upper

    def _remove(self, node: Node) -> None:
        parent = node.parent
        if parent is None or node.locks or node.children:
            raise ValueError(f"the eviction policy named node {node.serial}, which is not a released leaf")
        del parent.children[node.key[: self._page_bytes]]
        self._eviction.removed(node)

"""No prefix cache: every prompt is computed whole."""

from __future__ import annotations

from policies.views import RequestView
from runtime.scheduler.pages import PageIds
from runtime.scheduler.prefix.base import NO_PAGES, Match, Node, PrefixCache
from runtime.scheduler.sequence import TokenIds

_MISS = Match(tokens=0, node=None, inside=0)


class NoPrefixCache(PrefixCache):
    """Remembers nothing; every page stays with the sequence that computed it."""

    def match(self, tokens: TokenIds) -> Match:
        del tokens
        return _MISS

    def newly_pinned(self, match: Match) -> int:
        del match
        return 0

    def lock(self, match: Match, request: RequestView) -> tuple[Node | None, PageIds]:
        del match, request
        return None, NO_PAGES

    def continues(self, node: Node | None, tokens: TokenIds) -> bool:
        del node, tokens
        return False

    def insert(
        self, node: Node | None, tokens: TokenIds, pages: PageIds, request: RequestView
    ) -> tuple[Node | None, PageIds]:
        del node, tokens, request
        return None, pages

    def unlock(self, node: Node | None) -> None:
        del node

    def evict(self, pages: int) -> PageIds:
        if pages:
            raise ValueError(f"{pages} pages to evict from a server without a prefix cache")
        return NO_PAGES

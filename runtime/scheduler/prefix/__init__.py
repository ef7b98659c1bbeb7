"""Prefix caches: a radix tree of token pages, or none."""

from runtime.scheduler.prefix.base import NO_PAGES, Match, Node, PrefixCache
from runtime.scheduler.prefix.none import NoPrefixCache
from runtime.scheduler.prefix.radix import RadixCache

__all__ = ["NO_PAGES", "Match", "NoPrefixCache", "Node", "PrefixCache", "RadixCache"]

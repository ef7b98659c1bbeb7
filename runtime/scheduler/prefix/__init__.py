"""Prefix caches: a radix tree of token pages, or none."""

from runtime.scheduler.prefix.base import Match, Node, PrefixCache
from runtime.scheduler.prefix.none import NoPrefixCache
from runtime.scheduler.prefix.radix import RadixCache

__all__ = ["Match", "NoPrefixCache", "Node", "PrefixCache", "RadixCache"]

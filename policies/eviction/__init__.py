"""Eviction policies of the prefix cache, one file each."""

from policies.eviction.base import Eviction, LeafHeap
from policies.eviction.fifo import Fifo
from policies.eviction.lfu import Lfu
from policies.eviction.lru import Lru
from policies.eviction.random import RandomEviction

__all__ = ["Eviction", "Fifo", "LeafHeap", "Lfu", "Lru", "RandomEviction"]

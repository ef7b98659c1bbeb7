"""Eviction policies of the prefix cache, one file each."""

from policies.eviction.arc import Arc
from policies.eviction.base import Eviction, LeafHeap, Rank
from policies.eviction.fifo import Fifo
from policies.eviction.filo import Filo
from policies.eviction.flop_aware import FlopAware
from policies.eviction.gdsf import Gdsf
from policies.eviction.ghosts import Ghosts, prefix_key
from policies.eviction.hyperbolic import Hyperbolic
from policies.eviction.lfu import Lfu
from policies.eviction.lfuda import Lfuda
from policies.eviction.lhd import Lhd
from policies.eviction.lru import Lru
from policies.eviction.lru_k import LruK
from policies.eviction.mru import Mru
from policies.eviction.pgdsf import Pgdsf
from policies.eviction.priority import PriorityEviction
from policies.eviction.queues import Place, QueuedEviction
from policies.eviction.random import RandomEviction
from policies.eviction.s3fifo import S3Fifo
from policies.eviction.sampled import SampledEviction
from policies.eviction.session import SessionEviction
from policies.eviction.sieve import Sieve
from policies.eviction.slru import Slru
from policies.eviction.tlru import Tlru
from policies.eviction.ttl import Ttl
from policies.eviction.two_q import TwoQ
from policies.eviction.wtinylfu import WTinyLfu

__all__ = [
    "Arc",
    "Eviction",
    "Fifo",
    "Filo",
    "FlopAware",
    "Gdsf",
    "Ghosts",
    "Hyperbolic",
    "LeafHeap",
    "Lfu",
    "Lfuda",
    "Lhd",
    "Lru",
    "LruK",
    "Mru",
    "Pgdsf",
    "Place",
    "PriorityEviction",
    "QueuedEviction",
    "RandomEviction",
    "Rank",
    "S3Fifo",
    "SampledEviction",
    "SessionEviction",
    "Sieve",
    "Slru",
    "Tlru",
    "Ttl",
    "TwoQ",
    "WTinyLfu",
    "prefix_key",
]

"""Order: which waiting sequence is admitted next. One file each."""

from policies.order.base import AnyOrder, DynamicOrder, Order, PrefixOrder
from policies.order.dfs_weight import DfsWeight
from policies.order.dlpm import Dlpm
from policies.order.edf import Edf
from policies.order.fcfs import Fcfs
from policies.order.hrrn import Hrrn
from policies.order.k_lpm import KLpm
from policies.order.las import Las
from policies.order.least_slack import LeastSlack
from policies.order.lof import Lof
from policies.order.lpm import Lpm
from policies.order.mlfq import Mlfq
from policies.order.priority import Priority
from policies.order.random import Random
from policies.order.routing_key import RoutingKey
from policies.order.shortest_prefill_first import ShortestPrefillFirst
from policies.order.sjf import Sjf
from policies.order.srpt import Srpt
from policies.order.vtc import Vtc

__all__ = [
    "AnyOrder",
    "DfsWeight",
    "Dlpm",
    "DynamicOrder",
    "Edf",
    "Fcfs",
    "Hrrn",
    "KLpm",
    "Las",
    "LeastSlack",
    "Lof",
    "Lpm",
    "Mlfq",
    "Order",
    "PrefixOrder",
    "Priority",
    "Random",
    "RoutingKey",
    "ShortestPrefillFirst",
    "Sjf",
    "Srpt",
    "Vtc",
]

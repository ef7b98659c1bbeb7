"""Decisions: scheduling and cache-eviction policies, plain Python without a clock, a socket or a tensor."""

from policies.policy import Policy, build_policy
from policies.registry import PolicyError

__all__ = ["Policy", "PolicyError", "build_policy"]

"""Decisions: scheduling and cache-eviction policies, plain Python without a clock, a socket or a tensor."""

from policies.errors import PolicyError
from policies.policy import Policy, build_policy

__all__ = ["Policy", "PolicyError", "build_policy"]

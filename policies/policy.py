"""The bundle of decisions that the scheduler asks for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from policies.batching import Batching
from policies.errors import PolicyError
from policies.eviction import Eviction
from policies.order import DynamicOrder, Order
from policies.prediction import Prediction
from policies.preemption import Preemption
from policies.registry import PARTS, build
from policies.reservation import JointReservation, Reservation


@dataclass(frozen=True, slots=True)
class Policy:
    """Six decisions, each swappable alone, and whether prefixes are cached at all.

    A policy holds state (heaps, counters): make a new one for each scheduler.
    """

    order: Order | DynamicOrder
    batching: Batching
    reservation: Reservation | JointReservation
    preemption: Preemption
    eviction: Eviction
    prediction: Prediction
    prefix_cache: bool = True


def build_policy(config: Mapping[str, Any]) -> Policy:
    """A policy from plain configuration: ``{part: {"name": ..., **parameters}, "prefix_cache": bool}``.

    Raises:
        PolicyError: A part is missing, unknown, or does not take its parameters.
    """
    parts = {}
    for part in PARTS:
        settings = dict(config.get(part) or {})
        name = settings.pop("name", None)
        if not isinstance(name, str):
            raise PolicyError(
                f"policy.{part}.name={name!r}: name a policy, e.g. policy/{part}={next(iter(PARTS[part].builtin))}"
            )
        parts[part] = build(part, name, settings)
    return Policy(**parts, prefix_cache=bool(config.get("prefix_cache", True)))

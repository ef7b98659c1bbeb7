"""A random order."""

from __future__ import annotations

from policies.hashing import uniform
from policies.order.base import Order
from policies.views import SequenceView


class Random(Order):
    """A random order, drawn by a stateless hash of the request: the floor that any other order should beat."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed

    def key(self, sequence: SequenceView) -> float:
        return uniform(self._seed, sequence.request_id)

"""Sequences that go with those who run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from policies.order.base import DynamicOrder
from policies.views import SchedulerView, SequenceView


class RoutingKey(DynamicOrder):
    """First those whose key most of the running sequences have (SGLang's routing-key).

    The key is the tenant, ``client_id``: what its requests share (an adapter, a prompt, experts) is in use already.
    Sequences without a tenant, and tenants of whom no one runs, come after them; a tenant may starve.
    """

    def __init__(self) -> None:
        self._running: Counter[int] = Counter()  # sequences, by tenant that has any
        self._admitted: dict[int, int] = {}  # tenants of those who run, by ordinal

    def admitted(self, sequence: SequenceView) -> None:
        if sequence.client_id >= 0:
            self._admitted[sequence.ordinal] = sequence.client_id
            self._running[sequence.client_id] += 1

    def left(self, sequence: SequenceView) -> None:
        tenant = self._admitted.pop(sequence.ordinal, None)
        if tenant is not None:
            self._running[tenant] -= 1
            if not self._running[tenant]:
                del self._running[tenant]

    def arrange(self, waiting: Sequence[SequenceView], scheduler: SchedulerView, now: float) -> list[SequenceView]:
        del scheduler, now
        return sorted(waiting, key=self._rank)

    def _rank(self, sequence: SequenceView) -> tuple[int, int]:
        """Most company first, each tenant's sequences together; then the others as they came."""
        company = self._running[sequence.client_id]
        return -company, sequence.client_id if company else 0

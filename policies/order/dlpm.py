"""Fair sharing among tenants, with longest prefix matches."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heappush

from policies.errors import PolicyError
from policies.order.base import DynamicOrder
from policies.order.service import Service
from policies.views import SchedulerView, SequenceView


class Dlpm(DynamicOrder):
    """Deficit longest prefix match (Cao et al., Locality-aware Fair Scheduling in LLM Serving, 2025, arXiv 2501.14312).

    The longest prefix match first, among tenants (``client_id``) that have not used up what they were granted. When
    none of those who wait has any left, each of them is granted another quantum. A larger quantum finds more in the
    cache, a smaller one is fairer: two tenants that always have something queued drift no further apart than a quantum
    and one request's service.

    Args:
        quantum: Service granted at a time, weighted tokens.
        prefill_weight: What a prompt token that was not cached costs its tenant.
        decode_weight: What an output token costs it.
        limit: With more sequences waiting nothing is looked up in the cache: each tenant's go in the order they came.

    Raises:
        PolicyError: A number is out of range.
    """

    def __init__(
        self, quantum: float = 8192.0, prefill_weight: float = 1.0, decode_weight: float = 2.0, limit: int = 128
    ) -> None:
        if not quantum > 0:
            raise PolicyError(f"policy.order.quantum={quantum}: expected more than 0 weighted tokens, e.g. 8192")
        self._quantum = quantum
        self._limit = limit
        self._service = Service(prefill_weight, decode_weight)

    def admitted(self, sequence: SequenceView) -> None:
        self._service.admitted(sequence, sequence.total - sequence.cached)

    def left(self, sequence: SequenceView) -> None:
        self._service.left(sequence)

    def arrange(self, waiting: Sequence[SequenceView], scheduler: SchedulerView, now: float) -> list[SequenceView]:
        del now
        few = not self._limit or len(waiting) <= self._limit
        cached = {s.ordinal: scheduler.cached_prefix(s) if few else 0 for s in waiting}
        queues: dict[int, list[SequenceView]] = {}  # by tenant, next to be taken last
        for sequence in sorted(waiting, key=lambda s: (cached[s.ordinal], -s.ordinal)):
            queues.setdefault(sequence.client_id, []).append(sequence)
        left = {tenant: self._left(tenant, service) for tenant, service in self._service.of(queues).items()}
        # This grant is made for good. Those further down are only foreseen: whoever is admitted meanwhile has paid by
        # the time of the next arrangement, and the same tenants are found wanting then.
        quanta = self._missing(max(left.values()))
        for tenant in queues if quanta else ():
            self._service.grant(tenant, quanta)
            left[tenant] += quanta * self._quantum

        def best(tenant: int) -> tuple[int, int, int]:
            sequence = queues[tenant][-1]
            return -cached[sequence.ordinal], sequence.ordinal, tenant

        able, spent = list[tuple[int, int, int]](), list[int]()
        for tenant in queues:
            if left[tenant] > 0:
                able.append(best(tenant))
            else:
                spent.append(tenant)
        heapify(able)
        arranged: list[SequenceView] = []
        while len(arranged) < len(waiting):
            if not able:
                quanta = self._missing(max(left[tenant] for tenant in spent))
                for tenant in spent:
                    left[tenant] += quanta * self._quantum
                able = [best(tenant) for tenant in spent if left[tenant] > 0]
                spent = [tenant for tenant in spent if left[tenant] <= 0]
                heapify(able)
            _, _, tenant = heappop(able)
            sequence = queues[tenant].pop()
            arranged.append(sequence)
            if not sequence.preemptions:
                left[tenant] -= self._service.prefill_weight * (sequence.total - cached[sequence.ordinal])
            if queues[tenant]:
                if left[tenant] > 0:
                    heappush(able, best(tenant))
                else:
                    spent.append(tenant)
        return arranged

    def _left(self, tenant: int, service: float) -> float:
        """What a tenant may still use."""
        return self._service.granted(tenant) * self._quantum - service

    def _missing(self, most: float) -> int:
        """Quanta to grant until the tenant that has most left has something."""
        return 0 if most > 0 else int(-most // self._quantum) + 1

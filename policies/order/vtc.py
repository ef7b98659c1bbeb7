"""Fair sharing among tenants."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from heapq import heapify, heappop, heappush

from policies.order.base import DynamicOrder
from policies.order.service import Service
from policies.views import SchedulerView, SequenceView


class Vtc(DynamicOrder):
    """The tenant with the least service first: virtual token counters (Sheng et al., OSDI 2024).

    A tenant that comes back from having nothing queued is lifted to the least counter among those that have: it gets no
    credit for the time it asked for nothing. Two tenants that always have something queued never drift further apart
    than a bound: the largest prompt, or all the output that fits into KV at once.

    Args:
        prefill_weight: What a prompt token costs its tenant, cached or not.
        decode_weight: What an output token costs it.

    Raises:
        PolicyError: A weight is negative, or both are 0.
    """

    def __init__(self, prefill_weight: float = 1.0, decode_weight: float = 2.0) -> None:
        self._service = Service(prefill_weight, decode_weight)
        self._queued: Counter[int] = Counter()  # sequences, by tenant that has any
        self._waiting: set[int] = set()  # ordinals
        self._last_tenant: int | None = None  # whose sequence left the queue last

    def queued(self, sequence: SequenceView) -> None:
        tenant = sequence.client_id
        if tenant not in self._queued:
            others = list(self._queued)
            if not others and self._last_tenant is not None:
                others = [self._last_tenant]
            counters = self._counters([tenant, *others])
            missing = min((counters[other] for other in others), default=0.0) - counters[tenant]
            if missing > 0:
                self._service.grant(tenant, missing)
        self._queued[tenant] += 1
        self._waiting.add(sequence.ordinal)

    def admitted(self, sequence: SequenceView) -> None:
        self._unqueue(sequence)
        self._service.admitted(sequence, sequence.prompt_tokens)

    def left(self, sequence: SequenceView) -> None:
        if sequence.ordinal in self._waiting:
            self._unqueue(sequence)
        else:
            self._service.left(sequence)

    def arrange(self, waiting: Sequence[SequenceView], scheduler: SchedulerView, now: float) -> list[SequenceView]:
        del scheduler, now
        queues: dict[int, deque[SequenceView]] = {}
        for sequence in waiting:
            queues.setdefault(sequence.client_id, deque()).append(sequence)
        # As if each were admitted in turn; among equal tenants the one who came first.
        counters = self._counters(queues)
        tenants = [(counters[tenant], queue[0].ordinal, tenant) for tenant, queue in queues.items()]
        heapify(tenants)
        arranged: list[SequenceView] = []
        while tenants:
            counter, _, tenant = heappop(tenants)
            queue = queues[tenant]
            sequence = queue.popleft()
            arranged.append(sequence)
            if not sequence.preemptions:
                counter += self._service.prefill_weight * sequence.prompt_tokens
            if queue:
                heappush(tenants, (counter, queue[0].ordinal, tenant))
        return arranged

    def _counters(self, tenants: Iterable[int]) -> dict[int, float]:
        """Of each of these tenants: its service, and what it was lifted by."""
        service = self._service.of(tenants)
        return {tenant: self._service.granted(tenant) + served for tenant, served in service.items()}

    def _unqueue(self, sequence: SequenceView) -> None:
        self._waiting.remove(sequence.ordinal)
        tenant = self._last_tenant = sequence.client_id
        self._queued[tenant] -= 1
        if not self._queued[tenant]:
            del self._queued[tenant]

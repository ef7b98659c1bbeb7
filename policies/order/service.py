"""What each tenant was served: the account that fair orders keep."""

from __future__ import annotations

from policies.errors import PolicyError
from policies.views import SequenceView


class Service:
    """Tokens that were computed for each tenant (``client_id``; all without one are one tenant), weighted.

    Output is read off the lengths of the sequences that run, so that it is the same however many steps were run as one.
    What a preempted sequence has to compute again is not charged: it was not the tenant's wish.

    Args:
        prefill_weight: What a prompt token counts.
        decode_weight: What an output token counts.

    Raises:
        PolicyError: A weight is negative, or both are 0.
    """

    def __init__(self, prefill_weight: float, decode_weight: float) -> None:
        if min(prefill_weight, decode_weight) < 0 or not prefill_weight + decode_weight > 0:
            raise PolicyError(
                f"policy.order.prefill_weight={prefill_weight}, decode_weight={decode_weight}: what a prompt and an "
                "output token cost a tenant, e.g. 1 and 2"
            )
        self.prefill_weight, self.decode_weight = prefill_weight, decode_weight
        self._prefilled: dict[int, int] = {}  # tokens, by tenant
        self._decoded: dict[int, int] = {}  # tokens of sequences that have left, by tenant
        self._running: dict[int, tuple[SequenceView, int]] = {}  # with its total when it was admitted, by ordinal

    def admitted(self, sequence: SequenceView, prefill_tokens: int) -> None:
        """A sequence runs, and ``prefill_tokens`` are charged for its prompt unless they were before."""
        if not sequence.preemptions:
            tenant = sequence.client_id
            self._prefilled[tenant] = self._prefilled.get(tenant, 0) + prefill_tokens
        self._running[sequence.ordinal] = sequence, sequence.total

    def left(self, sequence: SequenceView) -> None:
        """A sequence has left; one that never ran is no matter."""
        entry = self._running.pop(sequence.ordinal, None)
        if entry is not None:
            tenant = sequence.client_id
            self._decoded[tenant] = self._decoded.get(tenant, 0) + sequence.total - entry[1]

    def by_tenant(self) -> dict[int, float]:
        """The service of every tenant who was served."""
        decoded = dict(self._decoded)
        for sequence, admitted_total in self._running.values():
            decoded[sequence.client_id] = decoded.get(sequence.client_id, 0) + sequence.total - admitted_total
        return {
            tenant: self.prefill_weight * prefilled + self.decode_weight * decoded.get(tenant, 0)
            for tenant, prefilled in self._prefilled.items()
        }

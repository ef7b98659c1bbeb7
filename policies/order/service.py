"""What each tenant was served: the account that fair orders keep."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from policies.errors import PolicyError
from policies.recent import TENANTS, Recent
from policies.views import SequenceView


@dataclass(slots=True)
class Account:
    """A tenant's.

    Attributes:
        prefilled: Prompt tokens charged.
        decoded: Output tokens of sequences that have left.
        granted: What the order has given it besides, in the order's own units.
    """

    prefilled: int = 0
    decoded: int = 0
    granted: float = 0.0


class Service:
    """Tokens that were computed for each tenant (``client_id``; all without one are one tenant), weighted.

    Output is read off the lengths of the sequences that run, so that it is the same however many steps were run as one.
    What a preempted sequence has to compute again is not charged: it was not the tenant's wish. A tenant that was not
    heard of for longest is forgotten, with all of its account, where there would be more than ``TENANTS``: it is new
    when it comes back.

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
        self._accounts = Recent[Account](TENANTS)
        self._running: dict[int, tuple[SequenceView, int]] = {}  # with its total when it was admitted, by ordinal

    def admitted(self, sequence: SequenceView, prefill_tokens: int) -> None:
        """A sequence runs, and ``prefill_tokens`` are charged for its prompt unless they were before."""
        if not sequence.preemptions:
            self._account(sequence.client_id).prefilled += prefill_tokens
        self._running[sequence.ordinal] = sequence, sequence.total

    def left(self, sequence: SequenceView) -> None:
        """A sequence has left; one that never ran is no matter."""
        entry = self._running.pop(sequence.ordinal, None)
        if entry is not None:
            self._account(sequence.client_id).decoded += sequence.total - entry[1]

    def grant(self, tenant: int, amount: float) -> None:
        """Add to what the order has given a tenant."""
        self._account(tenant).granted += amount

    def granted(self, tenant: int) -> float:
        """All that the order has given a tenant."""
        account = self._accounts.get(tenant)
        return 0.0 if account is None else account.granted

    def of(self, tenants: Iterable[int]) -> dict[int, float]:
        """The service of each of these tenants."""
        running: dict[int, int] = {}
        for sequence, admitted_total in self._running.values():
            running[sequence.client_id] = running.get(sequence.client_id, 0) + sequence.total - admitted_total
        found = {}
        for tenant in tenants:
            account = self._accounts.get(tenant) or Account()
            decoded = account.decoded + running.get(tenant, 0)
            found[tenant] = self.prefill_weight * account.prefilled + self.decode_weight * decoded
        return found

    def _account(self, tenant: int) -> Account:
        """A tenant's account, which is about to change: it was heard of."""
        account = self._accounts[tenant] = self._accounts.get(tenant) or Account()
        return account

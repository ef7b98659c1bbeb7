"""Multi-level feedback queue."""

from __future__ import annotations

from policies.errors import PolicyError
from policies.order.base import Order
from policies.views import SequenceView


class Mlfq(Order):
    """Skip-join multi-level feedback queue (FastServe: Wu et al., 2023, arXiv 2305.05920).

    Queue ``i`` is for sequences that have taken up to ``quantum * 2**i`` of service: a new one skips those that its
    prefill alone exceeds, a preempted one has sunk by what it produced. First come first served within a queue.
    FastServe also interrupts whoever runs at the end of a quantum: here the queues say who is admitted, and
    ``policy/preemption=most_served`` who makes room when KV runs out. Where FastServe lifts a starved job to the top,
    everyone here rises steadily with time, so that ranks among those that wait never change.

    Args:
        quantum: Service of the first queue, in output tokens.
        prompt_weight: What a token to prefill counts, in output tokens: a prefill runs some 300 tokens in the time of
            a decode step.
        promote_s: Seconds since its arrival that lift a sequence by one queue; 0 for never.

    Raises:
        PolicyError: A number is out of range.
    """

    def __init__(self, quantum: float = 4.0, prompt_weight: float = 1 / 256, promote_s: float = 60.0) -> None:
        if not quantum > 0:
            raise PolicyError(f"policy.order.quantum={quantum}: expected more than 0 output tokens, e.g. 4")
        for name, value in (("prompt_weight", prompt_weight), ("promote_s", promote_s)):
            if not value >= 0:
                raise PolicyError(f"policy.order.{name}={value}: not negative")
        self._quantum, self._prompt_weight = quantum, prompt_weight
        self._queues_per_s = 1 / promote_s if promote_s else 0.0

    def key(self, sequence: SequenceView) -> float:
        produced = sequence.total - sequence.prompt_tokens
        service = produced + self._prompt_weight * sequence.prompt_tokens
        queue, limit = 0, self._quantum
        while service > limit:
            queue, limit = queue + 1, 2 * limit
        return queue + sequence.queued_s * self._queues_per_s

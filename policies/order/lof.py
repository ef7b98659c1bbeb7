"""Longest output first."""

from __future__ import annotations

from policies.order.base import Order
from policies.views import SequenceView


class Lof(Order):
    """Longest output first (SGLang): for a batch of jobs, so that no long one is left to run alone at the end.

    SGLang goes by ``max_tokens``: that is what ``policy/prediction=max_tokens`` predicts.
    """

    def key(self, sequence: SequenceView) -> float:
        return -sequence.predicted_tokens

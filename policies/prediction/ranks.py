"""Which of two outputs is longer, and not by how much."""

from __future__ import annotations

import math
from statistics import NormalDist

from policies.errors import PolicyError
from policies.hashing import uniform
from policies.prediction.base import Prediction
from policies.prediction.oracle import Oracle
from policies.views import SequenceView

_RANKS = 1000


class Ranks(Prediction):
    """A learnt ranking of output lengths (Fu et al., Efficient LLM Scheduling by Learning to Rank, NeurIPS 2024).

    Their ranker orders requests with a Kendall's tau of 0.5 to 0.8 to the truth and says nothing of lengths. Here it is
    the logarithm of the true length with a normal error, which gives the ``tau`` asked for where lengths are lognormal.
    What comes out is the rank among a thousand typical requests, 1 to 1,000: good for ``order=sjf``, and no number of
    tokens for ``reservation=predicted``.

    Args:
        tau: Kendall's rank correlation with the truth; 1 is never wrong, 0 knows nothing.
        median_tokens: Of typical output lengths.
        spread: Standard deviation of their logarithm.
        seed: Another seed, other errors.

    Raises:
        PolicyError: A number is out of range.
    """

    def __init__(self, tau: float = 0.6, median_tokens: float = 200.0, spread: float = 1.0, seed: int = 0) -> None:
        if not 0 <= tau <= 1:
            raise PolicyError(f"policy.prediction.tau={tau}: a rank correlation from 0 to 1, e.g. 0.6")
        for name, value in (("median_tokens", median_tokens), ("spread", spread)):
            if not value > 0:
                raise PolicyError(f"policy.prediction.{name}={value}: expected more than 0")
        self._truth = Oracle()
        self._normal = NormalDist()
        self._median, self._spread, self._seed = math.log(median_tokens), spread, seed
        # Of two normal variables: tau = 2 / pi * asin(correlation).
        self._correlation = math.sin(math.pi / 2 * tau)
        self._noise = math.sqrt(1 - self._correlation**2)

    def output_tokens(self, sequence: SequenceView) -> int:
        score = (math.log(max(self._truth.output_tokens(sequence), 1)) - self._median) / self._spread
        error = self._normal.inv_cdf(max(uniform(self._seed, sequence.request_id), 2.0**-53))
        rank = self._normal.cdf(self._correlation * score + self._noise * error)
        return 1 + min(int(rank * _RANKS), _RANKS - 1)

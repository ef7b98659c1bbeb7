"""How a request wants its tokens chosen. No torch here: the API server reads these too."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field


class SamplingError(ValueError):
    """A sampling parameter is out of range; the message names the field, the value and the range."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """One request's sampling parameters, with OpenAI's names and vLLM's for what OpenAI lacks.

    Stop strings, ``ignore_eos`` and ``max_tokens`` are the server's affair (``Sequence.stop_ids`` and ``max_tokens``).

    Attributes:
        temperature: 0 is greedy.
        top_p: The smallest set of tokens whose probabilities reach this sum is kept (nucleus sampling), in (0, 1].
        top_k: The most likely so many tokens are kept; 0 for all.
        min_p: Tokens at least this fraction as likely as the likeliest are kept, in [0, 1].
        seed: With a seed, the tokens depend on the request alone, not on the batches it runs in or on other requests.
        presence_penalty: Taken from the logit of each token that the output holds, in [-2, 2].
        frequency_penalty: The same, times how often it does, in [-2, 2].
        repetition_penalty: Divides the positive and multiplies the negative logits of each token that prompt or output
            hold (CTRL, arXiv 1909.05858); over 0.
        logprobs: How many of the likeliest tokens' log-probabilities are wanted with each token's own (0: only its
            own), or None for none.
        logit_bias: Token id to what is added to its logit.
        min_tokens: Output tokens before any of ``Sequence.stop_ids`` may be chosen.

    Raises:
        SamplingError: A parameter is out of range.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logprobs: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    min_tokens: int = 0

    def __post_init__(self) -> None:
        for name, low, high in (
            ("temperature", 0.0, math.inf),
            ("top_k", 0, math.inf),
            ("min_p", 0.0, 1.0),
            ("presence_penalty", -2.0, 2.0),
            ("frequency_penalty", -2.0, 2.0),
            ("min_tokens", 0, math.inf),
        ):
            self._require(name, low <= getattr(self, name) <= high, f"from {low:g} to {high:g}")
        self._require("temperature", math.isfinite(self.temperature), "a finite number")
        self._require("top_p", 0 < self.top_p <= 1, "over 0, at most 1")
        self._require("repetition_penalty", 0 < self.repetition_penalty < math.inf, "over 0")
        self._require("logprobs", self.logprobs is None or 0 <= self.logprobs <= 20, "from 0 to 20, or null")
        self._require(
            "logit_bias",
            all(token >= 0 and math.isfinite(bias) for token, bias in self.logit_bias.items()),
            "a finite number for each token id",
        )

    def _require(self, name: str, holds: bool, wanted: str) -> None:
        if not holds:
            raise SamplingError(f"{name}={getattr(self, name)!r}: {wanted}")

    @property
    def penalised(self) -> bool:
        """Whether a token's logit depends on the tokens before it."""
        return self.presence_penalty != 0 or self.frequency_penalty != 0 or self.repetition_penalty != 1


GREEDY = SamplingParams(temperature=0.0)

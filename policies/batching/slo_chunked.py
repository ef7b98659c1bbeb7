"""Chunks of prompts as large as the time between two tokens allows."""

from __future__ import annotations

from policies.batching.base import Batching, StepPlan, positive
from policies.errors import PolicyError
from policies.views import SchedulerView


class SloChunked(Batching):
    """Every decoding sequence plus chunks of prompts, as many tokens as a step of ``tbt_s`` has time for.

    The chunk grows and shrinks with what decodes (dynamic chunking: QoServe, Goel et al., 2025, arXiv 2503.22562;
    Dynamic SplitFuse: DeepSpeed-FastGen, Holmes et al., 2024, fixes the whole step instead). A step's time is taken as

        ``base_s + decode_token_s * decodes + context_token_s * their context
        + prompt tokens * (prefill_token_s + attention_token_s * prompt tokens before them)``

    and not from a clock, so that every backend plans alike. The defaults are Qwen3-8B's on an H100, and come within 5 %
    of its decode steps of 1 to 256 sequences; for another model or GPU, fit them to the step table of a run.

    Args:
        tbt_s: Time between two tokens to stay within, seconds.
        step_tokens: The most prompt tokens in a step.
        min_tokens: Prompt tokens in a step where decoding alone takes ``tbt_s``: prompts are not to starve.
        base_s: Seconds of a step with nothing in it.
        prefill_token_s: Seconds for a prompt token,
        attention_token_s: and for each token before it, of the prompts that are begun.
        decode_token_s: Seconds for a decoding sequence.
        context_token_s: Seconds for a token of its context.

    Raises:
        PolicyError: A number is out of range.
    """

    fixed_budget = False

    def __init__(
        self,
        tbt_s: float = 0.05,
        step_tokens: int = 8192,
        min_tokens: int = 64,
        base_s: float = 6.5e-3,
        prefill_token_s: float = 24e-6,
        attention_token_s: float = 1e-9,
        decode_token_s: float = 12e-6,
        context_token_s: float = 4.4e-8,
    ) -> None:
        self.step_tokens = positive("policy.batching.step_tokens", step_tokens)
        self._min_tokens = min(positive("policy.batching.min_tokens", min_tokens), step_tokens)
        for name, value in (("tbt_s", tbt_s), ("prefill_token_s", prefill_token_s)):
            if not value > 0:
                raise PolicyError(f"policy.batching.{name}={value}: expected seconds, more than 0")
        for name, value in (
            ("base_s", base_s),
            ("attention_token_s", attention_token_s),
            ("decode_token_s", decode_token_s),
            ("context_token_s", context_token_s),
        ):
            if not value >= 0:
                raise PolicyError(f"policy.batching.{name}={value}: expected seconds, not negative")
        self._spare_s = tbt_s - base_s
        self._prefill_token_s, self._attention_token_s = prefill_token_s, attention_token_s
        self._decode_token_s, self._context_token_s = decode_token_s, context_token_s

    def plan(self, scheduler: SchedulerView, now: float) -> tuple[StepPlan, ...]:
        del now
        decode_s = (
            self._decode_token_s * scheduler.decoding_sequences + self._context_token_s * scheduler.decoding_tokens
        )
        token_s = self._prefill_token_s + self._attention_token_s * scheduler.prefilling_tokens
        tokens = int((self._spare_s - decode_s) / token_s)
        return (StepPlan(prefill_tokens=min(max(tokens, self._min_tokens), self.step_tokens), decode=True),)

"""Scenarios for hypothesis: small servers under every combination of policies."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import strategies as st

from policies import registry
from runtime.scheduler import SchedulerConfig
from tests.core.driver import Abort, Asked, Scenario
from tests.core.engine import VOCABULARY

OWN = "tests.core.own_policies"
_PROMPT, _OUTPUT = 20, 10

_seeds = st.integers(0, 99)
_step_tokens = st.sampled_from([1, 2, 3, 5, 8, 16, 64])


def _part(name: str, **parameters: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"name": st.just(name), **parameters})


def _built_in(part: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.sampled_from([{"name": name} for name in registry.PARTS[part].builtin])


# Every built-in policy as it is by default, and besides some with parameters that a small scenario can feel.
PARTS: dict[str, st.SearchStrategy[Any]] = {
    "order": st.one_of(
        _built_in("order"),
        _part("lpm", limit=st.sampled_from([0, 2, 128]), shared_tokens=st.sampled_from([0, 1, 4])),
        _part("k_lpm", k=st.integers(0, 2), limit=st.sampled_from([0, 2])),
        _part("hrrn", limit=st.just(0), shared_tokens=st.sampled_from([0, 4])),
        _part("shortest_prefill_first", limit=st.sampled_from([0, 2]), shared_tokens=st.sampled_from([0, 4])),
        _part("sjf", prompt_weight=st.sampled_from([0.0, 0.5])),
        _part("mlfq", quantum=st.sampled_from([1.0, 2.0]), prompt_weight=st.sampled_from([0.0, 0.25])),
        _part("vtc", prefill_weight=st.sampled_from([0.0, 1.0]), decode_weight=st.sampled_from([0.5, 2.0])),
        _part("dlpm", quantum=st.sampled_from([1.0, 10.0, 100.0]), limit=st.sampled_from([0, 2, 128])),
        _part("priority", ageing_s=st.sampled_from([0.0, 0.1, 10.0])),
        _part("random", seed=_seeds),
        _part(f"{OWN}.ErraticOrder", seed=_seeds),
    ),
    "batching": st.one_of(
        _part("prefill_first", step_tokens=_step_tokens, max_prefill_steps=st.integers(0, 3)),
        _part("decode_first", step_tokens=_step_tokens),
        _part("chunked", step_tokens=_step_tokens),
        # A budget that moves with every decode: a prompt token takes a second, and so does a token of context.
        _part(
            "slo_chunked",
            step_tokens=_step_tokens,
            min_tokens=st.integers(1, 3),
            tbt_s=st.sampled_from([1.0, 20.0, 60.0]),
            base_s=st.just(0.0),
            prefill_token_s=st.just(1.0),
            context_token_s=st.just(1.0),
        ),
        _part(f"{OWN}.ErraticBatching", step_tokens=_step_tokens, seed=_seeds),
    ),
    "reservation": st.one_of(
        _built_in("reservation"),
        _part("ratio", decay_steps=st.sampled_from([1, 5, 600]), clip_tokens=st.sampled_from([2, 4096])),
        _part("past_future", window=st.sampled_from([1, 3, 1000]), seed=_seeds),
    ),
    "preemption": st.one_of(_built_in("preemption"), _part(f"{OWN}.ErraticPreemption", seed=_seeds)),
    "eviction": st.one_of(
        _built_in("eviction"),
        _part("random", seed=_seeds),
        _part(f"{OWN}.MostRecentlyUsed"),
    ),
    "prediction": st.one_of(_built_in("prediction"), _part("noisy_oracle", seed=_seeds), _part("ranks", seed=_seeds)),
    "prefix_cache": st.sampled_from([True, True, True, False]),
}


@st.composite
def scenarios(draw: st.DrawFn, /, **fixed: Any) -> Scenario:
    """A scenario, with parts of its policy fixed."""
    parts = {part: fixed[part] if part in fixed else draw(strategy, label=part) for part, strategy in PARTS.items()}
    foretold_only = draw(st.booleans(), label="foretold_only")
    asked = draw(_requests(foretold_only), label="asked")
    page_size = draw(st.sampled_from([1, 2, 4, 16]), label="page_size")
    # Just enough for the longest request that is well formed, or more; some are too long for either limit.
    longest = max((len(a.prompt) + a.max_tokens - 1 for a in asked if a.prompt), default=1)
    spare = draw(st.sampled_from([0, 0, 0, 1, 2, 4, 8, 30, -2]), label="spare pages")
    pages = max(-(-longest // page_size) + spare, 1)
    config = SchedulerConfig(
        pages,
        page_size,
        max_running=draw(st.integers(1, 5), label="max_running"),
        max_context=draw(st.sampled_from([_PROMPT + _OUTPUT, _PROMPT + _OUTPUT, 12]), label="max_context"),
    )
    aborts = st.builds(
        Abort, tick=st.integers(0, 40), phase=st.integers(0, 2), request_id=st.integers(0, len(asked) + 1)
    )
    return Scenario(
        config,
        parts,
        asked,
        aborts=tuple(draw(st.lists(aborts, max_size=5), label="aborts")),
        in_flight=tuple(
            draw(
                st.one_of(st.just([True]), st.just([False]), st.lists(st.booleans(), min_size=1, max_size=5)),
                label="in_flight",
            )
        ),
        foretold_only=foretold_only,
    )


@st.composite
def _requests(draw: st.DrawFn, foretold_only: bool) -> tuple[Asked, ...]:
    tokens = st.integers(0, VOCABULARY - 1)
    few = st.integers(0, 1)
    stems = draw(st.lists(st.lists(few, min_size=1, max_size=_PROMPT - 4), min_size=1, max_size=3))
    asked = []
    for _ in range(draw(st.integers(1, 8))):
        stem = draw(st.sampled_from(stems))
        # Whole stems are frequent: equal prompts in flight.
        kept = draw(st.sampled_from([len(stem), len(stem), draw(st.integers(0, len(stem)))]))
        prompt = (*stem[:kept], *draw(st.lists(few, max_size=4)))
        # One in many is malformed: an empty prompt, or no tokens asked for.
        max_tokens = draw(st.sampled_from([*range(1, _OUTPUT + 1), _OUTPUT, _OUTPUT, -5]))
        foretold, stop_ids = None, frozenset[int]()
        if foretold_only or draw(st.booleans()):
            foretold = tuple(draw(st.lists(tokens, min_size=1, max_size=_OUTPUT)))
        else:
            stop_ids = draw(st.frozensets(tokens, max_size=2))
        tick = draw(st.sampled_from([0, 0, 1, 2, 3, 5, 9, 20]))
        who = {"session_id": draw(st.integers(-1, 1)), "client_id": draw(st.integers(-1, 2))}
        urgency = {"priority": draw(st.integers(0, 2)), "deadline_s": draw(st.sampled_from([math.nan, 0.5, 1.0, 2.5]))}
        asked.append(Asked(tick, prompt, max_tokens, foretold, stop_ids, **urgency, **who))
    return tuple(asked)

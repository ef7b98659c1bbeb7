"""Scenarios for hypothesis: small servers under every combination of policies."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from runtime.scheduler import SchedulerConfig
from tests.core.driver import Abort, Asked, Scenario
from tests.core.engine import VOCABULARY

OWN = "tests.core.own_policies"
_PROMPT, _OUTPUT = 20, 10

_seeds = st.integers(0, 99)
_step_tokens = st.sampled_from([1, 2, 3, 5, 8, 16, 64])


def _part(name: str, **parameters: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"name": st.just(name), **parameters})


PARTS: dict[str, st.SearchStrategy[Any]] = {
    "order": st.one_of(
        _part("fcfs"),
        _part("lpm", limit=st.sampled_from([0, 2, 128])),
        _part("sjf", prompt_weight=st.sampled_from([0.0, 0.5])),
        _part("priority"),
        _part("random", seed=_seeds),
        _part(f"{OWN}.ErraticOrder", seed=_seeds),
    ),
    "batching": st.one_of(
        _part("prefill_first", step_tokens=_step_tokens, max_prefill_steps=st.integers(0, 3)),
        _part("decode_first", step_tokens=_step_tokens),
        _part("chunked", step_tokens=_step_tokens),
        _part(f"{OWN}.ErraticBatching", step_tokens=_step_tokens, seed=_seeds),
    ),
    "reservation": st.one_of(
        _part("full"),
        _part("ratio", decay_steps=st.sampled_from([1, 5, 600]), clip_tokens=st.sampled_from([2, 4096])),
        _part("predicted"),
        _part("none"),
    ),
    "preemption": st.one_of(
        _part("newest"),
        _part("oldest"),
        _part("least_progress"),
        _part(f"{OWN}.ErraticPreemption", seed=_seeds),
    ),
    "eviction": st.one_of(
        _part("lru"),
        _part("lfu"),
        _part("fifo"),
        _part("random", seed=_seeds),
        _part(f"{OWN}.MostRecentlyUsed"),
    ),
    "prediction": st.one_of(_part("max_tokens"), _part("oracle"), _part("noisy_oracle", seed=_seeds)),
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
        priority = draw(st.integers(0, 2))
        asked.append(Asked(tick, prompt, max_tokens, foretold, stop_ids, priority))
    return tuple(asked)

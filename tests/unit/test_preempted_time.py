"""Seconds that a request spent preempted: from the scheduler's own times, the same for every backend."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from harness.compose import compose
from harness.experiment import load_trace
from harness.workload import Arrivals, Workload
from policies import build_policy
from runtime.scheduler import Scheduler, SchedulerConfig, Sequence, State

POLICY: dict[str, Any] = {
    "order": {"name": "fcfs"},
    "batching": {"name": "chunked", "step_tokens": 64},
    "reservation": {"name": "none"},
    "preemption": {"name": "newest"},
    "eviction": {"name": "lru"},
    "prediction": {"name": "max_tokens"},
}


def stepped(prompts: list[int], max_tokens: int, pages: int) -> tuple[list[Sequence], list[float]]:
    """Sequences run to their ends, a step at each whole second, and beside them the seconds seen from outside."""
    scheduler = Scheduler(SchedulerConfig(pages, 1, 8, 64), build_policy(POLICY))
    sequences = [
        Sequence(number, tokens, np.arange(64, dtype=np.int32) + 100 * number, max_tokens, foretold_tokens=max_tokens)
        for number, tokens in enumerate(prompts)
    ]
    for sequence in sequences:
        scheduler.add(sequence, 0.0)
    seen_s, out_since_s, now = [0.0] * len(sequences), {}, 0.0
    while scheduler.unfinished():
        batch = scheduler.schedule(now)
        for number, sequence in enumerate(sequences):
            if sequence.state is State.WAITING and sequence.preemptions:
                out_since_s.setdefault(number, now)
            elif number in out_since_s:
                seen_s[number] += now - out_since_s.pop(number)
        if batch is not None:
            scheduler.commit(batch, None, now)
        now += 1.0
    return sequences, seen_s


def test_of_two_that_do_not_fit_together_the_second_waits_for_the_end_of_the_first() -> None:
    # 4 + 4 prompt tokens, one more each at 1 s: ten pages are full. At 2 s the second goes, and it comes back at 6 s,
    # when the first has its six tokens.
    (first, second), _ = stepped([4, 4], 6, pages=10)
    assert (first.preemptions, first.preempted_s) == (0, 0.0)
    assert (second.preemptions, second.preempted_s) == (1, 4.0)


def test_several_preemptions_of_one_request_are_summed() -> None:
    sequences, seen_s = stepped([5, 6, 7, 4, 6], 12, pages=26)
    assert max(sequence.preemptions for sequence in sequences) > 1
    assert [sequence.preempted_s for sequence in sequences] == seen_s


@pytest.mark.parametrize("leap", [True, False])
def test_the_simulators_table_has_it_for_those_that_were_preempted(leap: bool) -> None:
    from harness.backends import sim

    config = compose(
        ["policy=vllm", "engine.pages=3000", "engine.page_size=1", "trace.head=60", "trace.cap_prompt_tokens=300"]
    )
    config.backend["leap"] = leap
    trace = load_trace(config.trace)
    requests = sim.replay(config, Workload(trace, Arrivals.ALL_AT_ONCE), lambda progress: True).requests
    preempted = requests["preemptions"] > 0
    assert preempted.any()
    assert (requests["preempted_s"][preempted] > 0).all()
    assert (requests["preempted_s"][~preempted] == 0).all()
    in_engine_s = requests["last_token_s"] - requests["scheduled_s"]
    assert (requests["preempted_s"] < in_engine_s).all()

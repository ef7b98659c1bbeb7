"""Prints a digest of what the core decides in busy scenarios: to compare processes."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from typing import Any

from runtime.scheduler import SchedulerConfig
from tests.core.driver import Abort, Asked, Scenario, drive

OWN = "tests.core.own_policies"


def busy_scenarios() -> Iterator[Scenario]:
    """A queue, shared prefixes, evictions, preemptions and aborts, under policies of every kind."""
    parts: list[dict[str, dict[str, Any]]] = [
        {"order": {"name": "lpm"}, "eviction": {"name": "lfu"}},
        {"order": {"name": "random"}, "batching": {"name": "chunked", "step_tokens": 9}},
        {"order": {"name": "sjf"}, "prediction": {"name": "noisy_oracle"}, "eviction": {"name": "random"}},
        {"order": {"name": f"{OWN}.ErraticOrder"}, "preemption": {"name": f"{OWN}.ErraticPreemption"}},
        {"batching": {"name": f"{OWN}.ErraticBatching"}, "preemption": {"name": "least_progress"}},
        {"order": {"name": "vtc"}, "eviction": {"name": "arc"}, "preemption": {"name": "min_waste"}},
        {
            "order": {"name": "dlpm", "quantum": 20.0},
            "eviction": {"name": "lhd"},
            "preemption": {"name": "most_served"},
        },
        {"order": {"name": "dfs_weight"}, "prediction": {"name": "history"}, "eviction": {"name": "s3fifo"}},
    ]
    for seed, part in enumerate(parts):
        rng = random.Random(seed)
        stems = [[rng.randrange(3) for _ in range(12)] for _ in range(3)]
        asked = tuple(
            Asked(
                rng.randrange(30),
                (*rng.choice(stems)[: rng.randint(1, 12)], *(rng.randrange(3) for _ in range(rng.randrange(4)))),
                rng.randint(1, 12),
                stop_ids=frozenset({rng.randrange(5), rng.randrange(5)}) if rng.random() < 0.5 else frozenset(),
                priority=rng.randrange(3),
                session_id=rng.randrange(-1, 4),
                client_id=rng.randrange(-1, 3),
            )
            for _ in range(40)
        )
        aborts = tuple(Abort(rng.randrange(60), rng.randrange(3), rng.randrange(40)) for _ in range(8))
        config = SchedulerConfig(pages=18, page_size=2, max_running=4, max_context=40)
        yield Scenario(config, {**part, "reservation": {"name": "none"}}, asked, aborts, (True, True, False))


def digest() -> str:
    """Of every decision, hexadecimal."""
    return hashlib.sha256(repr([drive(scenario) for scenario in busy_scenarios()]).encode()).hexdigest()


if __name__ == "__main__":
    print(digest())

"""Block accesses a second of the cache replays: ``python -m tests.benchmarks.cache_accesses [TRACE [BLOCKS]]``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from harness.cache.accesses import cut
from harness.cache.clairvoyant import belady_hits
from harness.cache.replay import replay_hits
from harness.cache.reuse import find_reuse
from harness.cache.stack import lru_hits
from policies.registry import build
from traces.load import load

REPEATS = 5


def main(name: str = "mooncake_conversation", blocks: str = "10000") -> None:
    """Print the best of some repeats for each way, in CPU seconds of one core."""
    accesses, size = cut(load(name)), int(blocks)
    ways: dict[str, Callable[[], object]] = {
        "lru, by stack distances, all sizes at once": lambda: lru_hits(find_reuse(accesses), [size]),
        "lru, through the server's tree": lambda: replay_hits(accesses, build("eviction", "lru", {}), size),
        "session, through the server's tree": lambda: replay_hits(accesses, build("eviction", "session", {}), size),
        "lhd, through the server's tree": lambda: replay_hits(accesses, build("eviction", "lhd", {}), size),
        "belady": lambda: belady_hits(find_reuse(accesses), size),
    }
    print(f"{len(accesses.block):,} block accesses of {name}, {size:,} blocks, best of {REPEATS}")
    for way, replay in ways.items():
        took_s = []
        for _ in range(REPEATS):
            begun_s = time.process_time()
            replay()
            took_s.append(time.process_time() - begun_s)
        print(f"{way:45s} {1e3 * min(took_s):8.1f} ms {len(accesses.block) / min(took_s) / 1e6:6.2f} M accesses/s")


if __name__ == "__main__":
    main(*sys.argv[1:])

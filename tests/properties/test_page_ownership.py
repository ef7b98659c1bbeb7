"""No step uses a page that is not its sequences' own: by the page table, and by what destroyed KV would do."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import build_policy
from runtime.engine.emulated import EmulatedEngine, instantly
from runtime.engine.offline import run_offline
from runtime.scheduler import Scheduler, SchedulerConfig, Sequence
from tests.core.owners import OwnedPages, PageIds

PARTS: dict[str, Any] = {
    "order": {"name": "fcfs"},
    "preemption": {"name": "newest"},
    "eviction": {"name": "lru"},
    "prediction": {"name": "max_tokens"},
}
FIELDS = {
    "architectures": ["Qwen3ForCausalLM"],
    "vocab_size": 101,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 200,
    "dtype": "float32",
}
SHARED = np.arange(40, dtype=np.int32)


def keep(pages: PageIds) -> None:
    """The emulated engine has no KV to destroy."""


def scheduler_of(batching: str, reservation: str, page_size: int, pages: int) -> Scheduler:
    policy = {"batching": {"name": batching, "step_tokens": 24}, "reservation": {"name": reservation}}
    return Scheduler(SchedulerConfig(pages, page_size, 6, 72), build_policy({**PARTS, **policy}))


@given(
    st.sampled_from(["chunked", "prefill_first", "decode_first"]),
    st.sampled_from(["none", "full"]),
    st.sampled_from([(1, 90), (4, 22), (16, 8)]),
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 12), st.integers(1, 20)), min_size=1, max_size=14),
    st.booleans(),
)
def test_steps_use_pages_of_their_own(
    batching: str, reservation: str, memory: tuple[int, int], shapes: list[tuple[int, int, int]], overlap: bool
) -> None:
    """Prompts share a prefix of any length; memory is short, so that sequences are preempted and prefixes evicted."""
    scheduler = scheduler_of(batching, reservation, *memory)
    sequences = []
    for index, (shared, rest, outputs) in enumerate(shapes):
        prompt = np.concatenate([SHARED[:shared], np.full(rest, 50 + index, np.int32)])
        sequences.append(Sequence(index, len(prompt), prompt, outputs))
    engine = OwnedPages(EmulatedEngine(instantly, 64), scheduler, keep)
    for _ in run_offline(scheduler, engine, sequences, overlap=overlap):
        pass
    assert engine.steps >= max(outputs for _, _, outputs in shapes)


@pytest.mark.parametrize("column", [0, 1])
def test_a_page_of_another_is_found(column: int) -> None:
    scheduler = scheduler_of("chunked", "full", 4, 22)
    engine = OwnedPages(EmulatedEngine(instantly, 64), scheduler, keep)
    steps = run_offline(scheduler, engine, [Sequence(i, 8, SHARED[i : i + 8], 9) for i in range(2)])
    next(steps)
    row_0, row_1 = (sequence.row for sequence in scheduler._running)
    scheduler.memory.table[row_1, column] = scheduler.memory.table[row_0, column]
    with pytest.raises(AssertionError, match=r"prefix|own a page|cached pages"):
        list(steps)


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("reservation", ["none", "full"])
def test_destroyed_kv_of_free_pages_is_never_read(overlap: bool, reservation: str) -> None:
    torch = pytest.importorskip("torch")
    from tests.tiny.serving import Server, output, prompts, sequence

    policy = {"batching": {"name": "chunked", "step_tokens": 16}, "reservation": {"name": reservation}}
    shared, rests = prompts(20, seed=9)[0], prompts(9, 3, 8, 5)
    asked = [shared[:count] + rest for count, rest in zip((0, 20, 14, 20), rests, strict=True)]
    calm, scarce = (
        Server(FIELDS, policy=policy, overlap=overlap, pages=pages, page_size=4, max_running=4) for pages in (200, 18)
    )
    expected = calm.greedy(asked, 20)
    pool = scarce.engine._attention._kv.unflatten(2, (-1, 4))  # type: ignore[attr-defined]

    def destroy(pages: PageIds) -> None:
        chosen = torch.from_numpy(pages.astype(np.int64))
        scarce.engine._steps.submit(pool.index_fill_, 2, chosen, 1e4)  # behind the steps launched so far

    engine = OwnedPages(scarce.engine, scarce.scheduler, destroy)
    sequences = [sequence(index, prompt, 20) for index, prompt in enumerate(asked)]
    for _ in run_offline(scarce.scheduler, engine, sequences, overlap=overlap):
        pass
    assert [output(done) for done in sequences] == expected
    for server in (calm, scarce):
        server.close()

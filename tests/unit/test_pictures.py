"""Pictures of the scheduler's insides: who holds a page, the prefix tree, a request's way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from harness.api import run
from harness.compose import compose
from harness.report.kv_map import CACHED, FREE, LEAVING, SHARED, draw_kv_map, page_owners
from harness.report.prefix_tree import draw_prefix_tree
from harness.report.request_waterfall import draw_waterfall, stages
from policies import build_policy
from policies.eviction import Lru
from runtime.scheduler import Scheduler, SchedulerConfig, Sequence
from runtime.scheduler.prefix import RadixCache

SIZES = SchedulerConfig(pages=24, page_size=2, max_running=4, max_context=32)
POLICY = compose(["policy=vllm"]).policy


def sequence(number: int, prompt: list[int], output_tokens: int = 3) -> Sequence:
    tokens = np.array([*prompt, *range(100, 100 + output_tokens)], np.int32)
    return Sequence(number, len(prompt), tokens, output_tokens, foretold_tokens=output_tokens)


def scheduled(*prompts: list[int]) -> Scheduler:
    """A scheduler that has run the prefill of these."""
    scheduler = Scheduler(SIZES, build_policy(POLICY))
    for number, prompt in enumerate(prompts):
        scheduler.add(sequence(number, prompt), now=0.0)
        batch = scheduler.schedule(now=0.0)
        assert batch is not None
        scheduler.commit(batch, None, now=0.0)
    return scheduler


@given(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=9), min_size=1, max_size=6), st.integers(1, 12))
def test_each_page_is_free_cached_or_someones(prompts: list[list[int]], steps: int) -> None:
    scheduler = Scheduler(SIZES, build_policy(POLICY))
    sequences = [sequence(number, prompt) for number, prompt in enumerate(prompts)]
    for each in sequences:
        scheduler.add(each, now=0.0)
    for _ in range(steps):
        batch = scheduler.schedule(now=0.0)
        owners = page_owners(scheduler)
        memory = scheduler.memory
        assert (owners == FREE).sum() == memory.pool.free
        assert (owners == CACHED).sum() == memory.cache.evictable_pages
        assert not (owners == LEAVING).any(), "no step is in flight but the one just planned"
        for each in scheduler.unfinished():
            held = owners[memory.table[each.row, : each.held_pages]]
            assert np.isin(held, [each.request_id, SHARED]).all()
        if batch is None:
            break
        scheduler.commit(batch, None, now=0.0)


def test_a_shared_prefix_is_shared_and_what_ended_is_cached() -> None:
    scheduler = scheduled([1, 2, 3, 4, 5], [1, 2, 3, 4, 6])
    assert (page_owners(scheduler) == SHARED).sum() == 2
    scheduler.abort(0)
    assert not (page_owners(scheduler) == SHARED).any()
    assert (page_owners(scheduler) == 1).sum() == 3
    scheduler.abort(1)
    owners = page_owners(scheduler)
    assert set(owners.tolist()) == {CACHED, FREE}


def test_the_map_has_a_column_a_step_and_a_word_for_each_owner() -> None:
    scheduler = scheduled([1, 2, 3, 4, 5], [1, 2, 3, 4, 6])
    axes = Figure().subplots()
    draw_kv_map(axes, [page_owners(scheduler)] * 7)
    (image,) = axes.get_images()
    assert np.shape(image.get_array())[:2] == (24, 7)
    legend = axes.get_legend()
    assert legend is not None
    assert {text.get_text() for text in legend.get_texts()} == {"request 0", "request 1", "shared by several", "free"}


def test_the_tree_is_drawn_along_its_tokens() -> None:
    cache = RadixCache(page_size=1, eviction=Lru())
    for number, prompt in enumerate([[1, 2, 3, 4], [1, 2, 5]]):
        each = sequence(number, prompt)
        match = cache.match(each.tokens[: len(prompt)])
        node, _ = cache.lock(match, each)
        pages = np.arange(len(prompt) - match.tokens, dtype=np.int32) + 10 * number
        cache.insert(node, each.tokens[match.tokens : len(prompt)], pages, each)
    axes = Figure().subplots()
    draw_prefix_tree(axes, cache.root, lambda tokens: "-".join(map(str, tokens.tolist())))
    bars: list[Any] = list(axes.patches)
    assert sorted((bar.get_x(), bar.get_width()) for bar in bars) == [(0, 2), (2, 1), (2, 2)]
    words = {text.get_text() for text in axes.texts}
    assert {"1-2", "3-4", "5", "pages 0, 1; read by 2", "pages 10; read by 1"} <= words


def test_stages_follow_one_another_and_make_up_the_latency(tmp_path: Path) -> None:
    replayed = run("trace.head=20", into=tmp_path / "run")
    assert replayed.complete
    assert replayed.config["name"] == "run"
    for request in replayed.requests.to_dict("records"):
        found = stages(request)
        assert found[0][1] == 0
        assert [end for _, _, end in found[:-1]] == [start for _, start, _ in found[1:]]
        assert found[-1][2] == pytest.approx(request["e2e_s"])
    request["tokenized_s"] = float("nan")
    assert "tokenize" not in [name for name, _, _ in stages(request)]
    axes = Figure().subplots()
    draw_waterfall(axes, request)
    assert [label.get_text() for label in axes.get_yticklabels()] == [name for name, _, _ in stages(request)]


def test_a_wrong_knob_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="trace"):
        run("trace=nonsense", into=tmp_path / "run")
    assert not (tmp_path / "run").exists()

"""Where a calibration measures."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.calibrate.bench import Bench
from harness.calibrate.places import (
    Place,
    coarse_grid,
    decoding,
    leave_one_out,
    next_place,
    sharing,
    smallest_of_each_kind,
    spreading,
)
from harness.compose import compose
from harness.cost.profile import ProfileCost
from harness.cost.roofline import Roofline
from harness.cost.shape import StepShape
from harness.cost.work import StepWork
from harness.simulator.engine import EngineOptions, Shapes
from policies import build_policy
from runtime.engine.place import EnginePlace
from runtime.scheduler import SchedulerConfig
from runtime.server.config import EngineSpec
from tests.cost.servers import SERVERS, STEP_TOKENS
from tests.cost.synthetic import engine_s, profile, roofline

WORK = StepWork(roofline(), chunk_graphs=True, fused_kv_bytes=0)
SERVER = SchedulerConfig(pages=25_000, page_size=16, max_running=256, max_context=40_960)
SIZES = SchedulerConfig(pages=4096, page_size=16, max_running=64, max_context=8192)
BENCH = Bench(
    EngineSpec("runtime.engine.emulated.build", {"vocab_size": 1000}),
    build_policy(compose([]).policy),
    EnginePlace(SIZES, 8192, 0, 1, ""),
)


@pytest.mark.parametrize(("batch", "longest"), [(17, 2048), (64, 1024), (200, 1024)])
def test_spread_contexts_all_differ_up_to_the_longest(batch: int, longest: int) -> None:
    place = spreading(batch, 512, longest)
    contexts = place.contexts()
    assert len(contexts) == len(set(contexts)) == batch, "as in traffic, no two alike"
    assert contexts[0] == max(contexts) == place.shape(batch).decode_max_context == longest
    assert sum(contexts) / batch == pytest.approx(512, rel=0.2)


@given(SERVERS, STEP_TOKENS)
def test_every_place_of_the_grid_fits_the_server(sizes: SchedulerConfig, step_tokens: int) -> None:
    grid = coarse_grid(sizes, step_tokens, WORK)
    assert len(set(grid)) == len(grid)
    for place in grid:
        contexts = place.contexts()
        assert 0 < len(contexts) <= sizes.max_running
        assert 0 < min(contexts) <= max(contexts) <= sizes.max_context
        assert sum(-(-tokens // sizes.page_size) for tokens in contexts) <= sizes.pages
        assert place.prefills * place.chunk <= step_tokens


def test_the_first_places_tell_of_all_others() -> None:
    """Of an engine unlike the roofline, better than as many of the grid that are drawn by lot do in the middle."""
    grid = coarse_grid(SERVER, 8192, WORK)
    shapes = [place.shape(place.decodes) for place in grid]

    def error(told: list[StepShape], base: Roofline) -> float:
        cost = ProfileCost(profile(base, shapes=told), base)
        return float(np.quantile([abs(cost.step_s(shape) / engine_s(shape, base) - 1) for shape in shapes], 0.95))

    random = np.random.default_rng(0)
    drawn = [[shapes[index] for index in random.choice(len(shapes), 60, replace=False)] for _ in range(5)]
    assert error(shapes[:60], roofline()) < min(0.05, np.median([error(told, roofline()) for told in drawn]))


def test_decodes_of_every_usual_batch_and_context_are_in_the_grid() -> None:
    grid = set(coarse_grid(replace(SERVER, pages=100_000), 8192, WORK))
    contexts = [128 << octave for octave in range(6)]
    assert {decoding(1, context) for context in contexts} <= grid
    assert {spreading(1 << power, context, 2 * context) for power in range(1, 9) for context in contexts} <= grid
    assert {Place(1, 16 << power) for power in range(10)} <= grid


def test_what_warms_up_is_small_and_of_every_kind() -> None:
    warming = smallest_of_each_kind(coarse_grid(SIZES, 8192, WORK))
    assert sorted(place.kind for place in warming) == ["decode", "mixed", "prefill"]
    assert all(sum(place.contexts()) < 1000 for place in warming)


@given(st.sampled_from(coarse_grid(SIZES, 8192, WORK)), st.booleans())
def test_a_place_is_the_step_that_the_simulator_sees(place: Place, cuda_graph: bool) -> None:
    seen, graph = Shapes(EngineOptions(cuda_graph=cuda_graph, max_graph_sequences=64), 0.0)(BENCH.batch(place))
    assert seen == place.shape(seen.decode_rows)
    assert graph or seen.decode_rows == place.decodes


def test_decodes_that_share_a_prefix_read_its_pages() -> None:
    found = list(sharing(SIZES))
    assert found
    for shared, apart, less in found:
        assert not apart.shared
        BENCH.batch(shared)
        rows = BENCH.scheduler.memory.table[: shared.decodes, : shared.decode_context // SIZES.page_size]
        tokens = SIZES.page_size * (rows.size - len(np.unique(rows)))
        assert tokens == (shared.decodes - 1) * shared.decode_context // 2
        assert sum(apart.contexts()) - sum(less.contexts()) == pytest.approx(tokens, abs=less.decodes)
        BENCH.batch(apart)
        assert len(np.unique(rows)) == rows.size


def test_where_there_is_no_room_nobody_shares() -> None:
    assert list(sharing(SchedulerConfig(pages=64, page_size=16, max_running=64, max_context=8192))) == []


def test_the_beginning_of_the_grid_covers_every_kind() -> None:
    grid = coarse_grid(SIZES, 8192, WORK)
    first = grid[: len(grid) // 4]
    assert {(place.prefills > 0, place.decodes > 0) for place in first} == {(True, False), (False, True), (True, True)}
    assert max(place.decodes for place in grid) == SIZES.max_running
    assert any(place.longest > place.decode_context for place in grid), "unequal contexts"
    assert any(not place.samples for place in grid), "steps that sample nothing"


def test_a_shape_counts_what_the_step_computes() -> None:
    place = Place(2, 10, 100, decodes=3, decode_context=50, longest=70)
    shape = place.shape(decode_rows=4)
    assert (shape.prefill_sequences, shape.prefill_tokens, shape.prefill_context) == (2, 20, 220)
    assert shape.prefill_pairs == 2 * sum(range(101, 111))
    assert (shape.decode_sequences, shape.decode_rows, shape.decode_context) == (3, 4, 170)
    assert (shape.decode_max_context, shape.sampled) == (70, 5)
    assert Place(2, 10, samples=False).shape(0).sampled == 0


def test_the_place_that_differs_from_its_neighbours_is_foretold_worst() -> None:
    places = [decoding(batch, 512) for batch in (1, 2, 4, 8, 16, 32)]
    errors = leave_one_out(places, [1.0, 1.0, 1.0, 2.0, 1.0, 1.0])
    assert int(np.argmax(errors)) == 3
    assert errors[3] == pytest.approx(math.log(2))
    assert np.isinf(leave_one_out([places[0], Place(1, 16)], [1.0, 1.0])).all(), "a prefill foretells no decode"


def test_the_next_place_lies_beside_the_worst_one() -> None:
    places = [decoding(batch, 512) for batch in (1, 2, 4, 16, 32, 64)]
    chosen = next_place(places, [1.0, 1.0, 1.0, 3.0, 1.0, 1.0], set(places), SIZES, 8192)
    assert chosen is not None
    assert chosen not in places
    assert 4 < chosen.decodes < 32
    assert (chosen.decode_context, chosen.longest) == (512, 512)


def test_placing_ends_when_there_is_nothing_between() -> None:
    places = [decoding(1, 512), decoding(2, 512)]
    assert next_place(places, [1.0, 2.0], set(places), SIZES, 8192) is None


@given(st.data())
def test_what_is_placed_between_fits_too(data: st.DataObject) -> None:
    grid = coarse_grid(SIZES, 8192, WORK)
    places = data.draw(st.lists(st.sampled_from(grid), min_size=2, max_size=30, unique=True))
    ratios = data.draw(st.lists(st.floats(0.1, 10), min_size=len(places), max_size=len(places)))
    chosen = next_place(places, ratios, set(places), SIZES, 8192)
    if chosen is not None:
        assert chosen.fits(SIZES, 8192)
        assert chosen not in places
        assert min(chosen.contexts()) > 0

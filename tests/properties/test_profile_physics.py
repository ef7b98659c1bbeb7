"""A measured profile's cost model: what the roofline's properties ask, and exactness and continuity besides."""

from dataclasses import fields, replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.cost.cross_validation import cross_validate
from harness.cost.measured import StepPoint
from harness.cost.profile import ProfileCost, monotone
from harness.cost.roofline import Roofline
from harness.cost.shape import StepShape
from tests.cost.steps import assert_more_work_takes_no_less, step
from tests.cost.steps import batches as any_batches
from tests.cost.synthetic import chunk_graph, engine_s, mixed, places, profile, roofline

ROUNDING = 1e-9
NAMES = [field.name for field in fields(StepShape)]


@cache
def cost(noise, tp=1):
    base = roofline("qwen3_8b", "h100", tp)
    return ProfileCost(profile(base, noise=noise, seed=tp), base)


@cache
def captured(noise):
    """With chunks of few tokens in CUDA graphs, whose attention takes twice as long."""
    base = roofline()

    def seconds(shape, base):
        longest = max(shape.prefill_max_context, shape.prefill_context / max(shape.prefill_sequences, 1))
        slower_s = base.prefill_attention_s(0, shape.prefill_pairs, 0) * chunk_graph(shape, longest)
        return engine_s(shape, base) + slower_s

    return ProfileCost(profile(base, seconds, noise, chunk_graphs=True), base)


models = st.sampled_from([(0.0, 1), (0.02, 1), (0.2, 2)]).map(lambda key: cost(*key))
near = st.tuples(st.integers(1, 3000), st.integers(0, 30_000))  # where something was measured
batches = st.one_of(
    any_batches,
    st.tuples(st.lists(near, max_size=3), st.lists(st.integers(1, 5000), max_size=200)),
).filter(any)


def columns(shapes):
    return {name: np.array([getattr(shape, name) for shape in shapes]) for name in NAMES}


def test_it_is_exact_where_it_was_measured():
    for measured in (cost(0.0), cost(0.02)):
        for point, pooled in zip(
            measured.profile.steps, monotone(measured.points.amounts, measured.points.seconds), strict=True
        ):
            assert measured.step_s(point.shape) == pytest.approx(pooled, rel=1e-12)
            assert measured.origin(point.shape) == "measured"
    exact = cost(0.0)  # its engine's seconds rise with all work: nothing had to be pooled
    assert all(exact.step_s(point.shape) == pytest.approx(point.device_s, rel=1e-12) for point in exact.profile.steps)


@given(models, batches, st.data())
def test_more_work_never_takes_less_time(measured, batch, data):
    assert_more_work_takes_no_less(measured, batch, data, ROUNDING)


few = st.tuples(st.lists(st.tuples(st.integers(1, 200), st.integers(0, 3000)), min_size=1, max_size=3), st.just([700]))


@given(few, st.integers(1, 200), st.integers(1, 3000))
def test_more_work_in_a_graph_takes_no_less_time(batch, tokens, context):
    """A step that outgrows the graphs may: those launched one kernel at a time split attention."""
    cost, (chunks, contexts) = captured(0.02), batch
    seconds = cost.step_s(step(batch)) * (1 - ROUNDING)
    (first, before), *others = chunks
    assert cost.step_s(step(([(first + tokens, before), *others], contexts))) >= seconds
    assert cost.step_s(step(([(first, before + context), *others], contexts))) >= seconds
    assert cost.step_s(step(([*chunks, (tokens, context)], contexts))) >= seconds
    assert cost.step_s(step((chunks, [*contexts, context]))) >= seconds


@given(models, batches, st.integers(0, 64))
def test_no_step_beats_peak_flops_or_peak_bandwidth(measured, batch, padding):
    shape, model, hardware, tp = step(batch, padding), measured.model, measured.hardware, measured.roofline.tp
    weights = model.weight_bytes("bf16", tp)
    rows = shape.prefill_tokens + shape.decode_sequences
    pairs = shape.prefill_pairs + shape.decode_context
    flops = rows * (weights["attention"] + weights["mlp"]) + shape.sampled * weights["lm_head"]
    flops += 4 * model.query_size * pairs * model.layers / tp
    kv_bytes = model.kv_bytes_per_token(tp) * (shape.decode_context + shape.prefill_context)
    moved = weights["attention"] + weights["mlp"] + weights["lm_head"] + kv_bytes
    least_s = max(flops / hardware.peak_flops["bf16"], moved / hardware.memory_bandwidth)
    assert measured.step_s(shape) >= least_s * (1 - ROUNDING)


def test_a_measurement_below_the_floor_is_believed():
    """The hardware's stated peaks are then wrong: the floor sinks to what was measured."""
    base = roofline()
    fast = profile(base, seconds=lambda shape, base: 0.5 * base.step_s(shape))
    measured = ProfileCost(fast, base)
    assert measured.step_s(fast.steps[0].shape) == pytest.approx(fast.steps[0].device_s)


@given(
    models, st.integers(1, 300), st.integers(0, 8), st.integers(1, 10**6), st.integers(1, 10**5), st.integers(1, 200)
)
def test_leaping_over_decode_steps_is_bit_for_bit_the_same(measured, sequences, padding, context, longest, steps):
    contexts, longests = context + sequences * np.arange(steps), longest + np.arange(steps)
    rows = sequences + padding
    shapes = [
        StepShape(
            decode_sequences=sequences,
            decode_rows=rows,
            decode_context=int(total),
            decode_max_context=int(most),
            sampled=sequences,
        )
        for total, most in zip(contexts, longests, strict=True)
    ]
    stepped = [measured.step_s(shape) for shape in shapes]
    assert measured.decode_s(sequences, rows, contexts, longests).tolist() == stepped
    assert measured.steps_s(columns(shapes)).tolist() == stepped


@given(models | st.just(captured(0.02)), st.lists(batches, min_size=1, max_size=20))
def test_many_at_once_are_bit_for_bit_the_same(measured, several):
    shapes = [step(batch) for batch in several]
    assert measured.steps_s(columns(shapes)).tolist() == [measured.step_s(shape) for shape in shapes]


@given(models, st.integers(1, 256), st.integers(16, 4000))
def test_seconds_have_no_jumps_along_the_context(measured, sequences, context):
    """One more token in one context costs what reading it could cost, many times over, and no more."""
    base = roofline()
    one_s = base.decode_attention_s(1) - base.decode_attention_s(0)
    contexts = sequences * context + np.arange(64)
    seconds = measured.decode_s(sequences, sequences, contexts, np.full(64, context + 64))
    assert np.diff(seconds).max() <= 500 * one_s


@given(st.integers(1, 4), st.integers(2, 8))
def test_far_outside_it_goes_on_as_the_roofline_does(sequences, octaves):
    """Twice the longest prompt takes about as many times longer as the roofline says."""
    measured, base = cost(0.0), roofline()
    half, whole = (mixed(sequences, 8192 << power, 0) for power in (octaves, octaves + 1))
    grows = measured.step_s(whole) / measured.step_s(half)
    assert grows == pytest.approx(base.step_s(whole) / base.step_s(half), rel=0.1)
    assert measured.origin(whole) == "extrapolated"


def test_a_profile_of_the_roofline_is_nearly_the_roofline():
    """Which knows nothing of thread blocks that wait for each other."""
    base = roofline()
    measured = ProfileCost(profile(base, seconds=lambda shape, base: base.step_s(shape)), base)
    between = [mixed(2, 300, 900), mixed(1, 700, 100, 50, 700)]
    assert [measured.step_s(shape) for shape in between] == pytest.approx([base.step_s(s) for s in between], rel=0.03)
    assert [measured.origin(shape) for shape in between] == ["interpolated", "interpolated"]


def test_points_left_out_are_predicted_within_a_few_percent():
    exact, noisy = cross_validate(cost(0.0)), cross_validate(captured(0.02))
    assert exact.median < 0.01
    assert exact.p95 < 0.03
    assert noisy.median < 0.02
    assert noisy.p95 < 0.05
    assert len(exact.errors) == len(places()) == len(exact.interior.errors) + len(exact.corners.errors)
    assert 0 < len(exact.corners.errors) < 0.2 * len(places())
    kinds = [exact.of(kind) for kind in ("prefill", "decode", "mixed")]
    assert sorted(error for kind in kinds for error in kind.errors) == sorted(exact.errors)
    assert len(kinds[1].errors) == sum(shape.prefill_sequences == 0 for shape in places())


def test_an_eager_decode_step_tells_nothing_where_a_graph_was_captured():
    base, shape = roofline(), places()[0]
    steps = profile(base).steps
    launched = StepPoint(replace(shape, decode_context=shape.decode_context + 5), False, 1.0, 0.0, 1)
    measured = ProfileCost(replace(profile(base), steps=[*steps, launched]), base)
    assert measured.step_s(launched.shape) < 0.1


@given(
    st.lists(
        st.tuples(st.integers(0, 4), st.integers(0, 4), st.floats(0.1, 10.0)),
        min_size=1,
        max_size=12,
        unique_by=lambda point: point[:2],
    )
)
def test_pooling_makes_rising_what_does_not_rise_and_leaves_what_does(points):
    amounts = np.array([point[:2] for point in points], float)
    seconds = np.array([point[2] for point in points])
    pooled = monotone(amounts, seconds)
    for i, j in np.ndindex(len(points), len(points)):
        if (amounts[i] <= amounts[j]).all():
            assert pooled[i] <= pooled[j]
    assert monotone(amounts, pooled).tolist() == pooled.tolist()


def test_transferred_is_scaled_by_the_ratio_of_the_rooflines():
    from harness.cost.profile import transferred

    here, there = roofline("qwen3_8b", "h100"), roofline("qwen3_8b", "h200", 2)
    moved = transferred(profile(here), there)
    assert (moved.tp, moved.hardware.name) == (2, "h200")
    point, original = moved.steps[10], profile(here).steps[10]
    ratio = there.step_s(point.shape) / here.step_s(point.shape)
    assert point.device_s == pytest.approx(original.device_s * ratio, rel=1e-3)  # but for how parts are shared out
    assert isinstance(ProfileCost(moved, there).roofline, Roofline)
    assert engine_s(point.shape, here) == original.device_s

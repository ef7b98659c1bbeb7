"""Percentiles are NumPy's; the closed-form intervals are those that resampling converges to."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from harness.metrics.difference import independent_difference, mean_difference, quantile_difference
from harness.metrics.sample import Sample

SECONDS = st.floats(min_value=0, max_value=1e6, allow_subnormal=False)
SHARES = [0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.999, 1]


@given(st.lists(st.tuples(SECONDS, st.integers(1, 9)), min_size=1, max_size=60))
def test_weighted_gaps_count_as_if_each_were_repeated(entries):
    values, weight = (np.array(column) for column in zip(*entries, strict=True))
    sample, repeated = Sample(values.astype(float), weight), np.repeat(values.astype(float), weight)
    np.testing.assert_array_equal(sample.quantile(SHARES), np.quantile(repeated, SHARES))
    assert sample.count == len(repeated)
    assert sample.mean == pytest.approx(repeated.mean(), rel=1e-12, abs=1e-12)
    assert sample.std == pytest.approx(repeated.std(), rel=1e-9, abs=1e-9 * (1 + repeated.max()))


@given(st.lists(st.one_of(SECONDS, st.just(float("nan"))), min_size=1, max_size=60))
def test_nulls_are_left_out(values):
    sample, known = Sample(np.array(values)), [value for value in values if value == value]
    assert sample.count == len(known)
    if known:
        np.testing.assert_array_equal(sample.quantile(SHARES), np.quantile(known, SHARES))


@given(st.lists(SECONDS, min_size=1, max_size=60), st.sampled_from([0.5, 0.99]))
def test_intervals_hold_their_estimate_and_stay_within_the_sample(values, p):
    sample = Sample(np.array(values))
    low, high = sample.quantile_interval(p)
    assert min(values) <= low <= sample.quantile(p) <= high <= max(values)
    low, high = sample.mean_interval()
    slack = 1e-9 * (1 + abs(sample.mean))
    assert min(values) - slack <= low <= sample.mean + slack
    assert low <= high <= max(values) + slack


def resampled(statistic, draws=3000):
    """The 95 % percentile-bootstrap interval, by resampling."""
    generator = np.random.default_rng(1)
    return np.quantile([statistic(generator) for _ in range(draws)], [0.025, 0.975])


def close(interval, expected, tolerance):
    """Whether both ends are within a share of the expected interval's width."""
    return np.abs(np.subtract(interval, expected)).max() <= tolerance * (expected[1] - expected[0])


@pytest.fixture(scope="module")
def latencies():
    generator = np.random.default_rng(7)
    return np.exp(generator.normal(size=(2000, 2)) @ [[1, 0.9], [0, 0.3]])  # two runs of one trace


@pytest.mark.parametrize("p", [0.5, 0.99])
def test_quantile_interval_is_the_bootstraps(latencies, p):
    values = latencies[:, 0]
    expected = resampled(lambda generator: np.quantile(generator.choice(values, len(values)), p))
    assert close(Sample(values).quantile_interval(p), expected, 0.1)


def test_mean_interval_is_the_bootstraps(latencies):
    values = latencies[:300, 0]
    expected = resampled(lambda generator: generator.choice(values, len(values)).mean())
    assert close(Sample(values).mean_interval(), expected, 0.05)


@pytest.mark.parametrize("p", [0.5, 0.99])
def test_gaps_of_a_step_are_one_observation(p):
    generator = np.random.default_rng(3)
    gap_s, weight = generator.gamma(4, size=5000), generator.integers(1, 64, size=5000)

    def redrawn(generator):
        rows = generator.integers(0, len(gap_s), size=len(gap_s))
        return Sample(gap_s[rows], weight[rows]).quantile(p)

    interval = Sample(gap_s, weight).quantile_interval(p)
    assert close(interval, resampled(redrawn, 1000), 0.15)
    alone = Sample(np.repeat(gap_s, weight)).quantile_interval(p)
    assert interval[1] - interval[0] > 3 * (alone[1] - alone[0])


@pytest.mark.parametrize("statistic", ["mean", 0.5, 0.99])
@pytest.mark.parametrize("paired", [True, False])
def test_interval_of_a_difference_is_the_bootstraps(latencies, statistic, paired):
    a, b = latencies[:, 0], latencies[:, 1]
    rows = np.arange(len(a))
    pairs = (rows, rows) if paired else None

    def point(values):
        return values.mean() if statistic == "mean" else np.quantile(values, statistic)

    def redrawn(generator):
        drawn = generator.integers(0, len(a), size=len(a))
        other = drawn if paired else generator.integers(0, len(a), size=len(a))
        return point(b[other]) - point(a[drawn])

    interval = mean_difference(a, b, pairs) if statistic == "mean" else quantile_difference(a, b, pairs, statistic)
    assert close(interval, resampled(redrawn, 2000), 0.15)


def test_pairs_make_the_interval_narrower(latencies):
    a, b = latencies[:, 0], latencies[:, 1]
    rows = np.arange(len(a))
    low, high = quantile_difference(a, b, (rows, rows), 0.5)
    unpaired_low, unpaired_high = quantile_difference(a, b, None, 0.5)
    assert high - low < 0.7 * (unpaired_high - unpaired_low)


def test_a_run_does_not_differ_from_itself(latencies):
    rows = np.arange(len(latencies))
    for p in (0.5, 0.99):
        interval = quantile_difference(latencies[:, 0], latencies[:, 0], (rows, rows), p)
        assert interval == pytest.approx((0, 0), abs=1e-12)
    assert mean_difference(latencies[:, 0], latencies[:, 0], (rows, rows)) == pytest.approx((0, 0), abs=1e-9)


@pytest.mark.parametrize("empty", [np.array([]), np.array([np.nan])])
def test_what_has_no_values_has_no_interval(empty):
    assert quantile_difference(empty, np.ones(3), None, 0.5) is None
    assert mean_difference(np.ones(3), empty, None) is None


def test_difference_of_two_estimates_adds_their_errors_in_squares():
    assert independent_difference(10, (7, 14), 20, (16, 23)) == pytest.approx((10 - 32**0.5, 10 + 18**0.5))

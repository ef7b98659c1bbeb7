"""What a calibration runs to learn how a GPU's clocks follow its work, and what it makes of the seconds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.calibrate.bench import decode_before
from harness.calibrate.places import Place, decoding
from harness.calibrate.power import Part, Timed, fit_power_limit, in_a_row
from harness.cost.clocks import Clocks, PowerLimit
from runtime.scheduler import SchedulerConfig
from tests.cost.servers import SERVERS, STEP_TOKENS, by_context

SIZES = SchedulerConfig(pages=20_480, page_size=16, max_running=256, max_context=40_960)
PARTS: tuple[Part, ...] = ("before",) * 10 + ("prefill",) * 5 + ("behind",) * 10 + ("before", "prefill") * 4
TOKENS: dict[Part, int] = {"before": 0, "prefill": 4096, "behind": 0}
MEASURED_S: dict[Part, float] = {"before": 20e-3, "prefill": 45e-3, "behind": 7e-3}
BETWEEN_S = 5e-6  # steps


def rounds(truth: PowerLimit, noise: float, seed: int = 0) -> list[list[Timed]]:
    """Steps in a row on a GPU of such a limit, six times but for the first; each is that much off."""
    random, clocks, at_s, found = np.random.default_rng(seed), Clocks(truth), 100.0, []
    for _ in range(7):
        steps = []
        for part in PARTS:
            took_s = clocks.step_s(TOKENS[part], MEASURED_S[part], at_s)
            steps.append(Timed(part, at_s, took_s * (1 + noise * random.standard_normal())))
            at_s += took_s + BETWEEN_S
        found.append(steps)
        at_s += 0.01  # until the host has launched the next
    return found[1:]


def foretold(truth: PowerLimit, found: PowerLimit) -> float:
    """How far off the worst step of three such rows is."""
    real, twin, at_s, off = Clocks(truth), Clocks(found), 0.0, 0.0
    for part in PARTS * 3:
        real_s, twin_s = (clocks.step_s(TOKENS[part], MEASURED_S[part], at_s) for clocks in (real, twin))
        off = max(off, abs(twin_s / real_s - 1))
        at_s += real_s
    return off


@pytest.mark.parametrize("settles_s", [0.02, 0.035, 0.05, 0.08])
def test_the_power_limit_of_a_gpu_is_found(settles_s: float) -> None:
    """But for what is a matter of taste: of which seconds of a slower step the share is."""
    truth = PowerLimit(settles_s, compute=0.18, memory=0.05, pause_s=0.02)
    found = fit_power_limit(rounds(truth, noise=0.0))
    assert found is not None
    assert found.settles_s == pytest.approx(truth.settles_s, rel=0.07)
    assert found.compute == pytest.approx(truth.compute, rel=0.09)
    assert found.memory == pytest.approx(truth.memory, rel=0.15)
    assert found.pause_s == pytest.approx(MEASURED_S["before"], rel=0.06), "slower behind a prefill"


@pytest.mark.parametrize("settles_s", [0.02, 0.035, 0.05])
@pytest.mark.parametrize("seed", range(3))
def test_noisy_seconds_tell_the_steps_behind_each_other(settles_s: float, seed: int) -> None:
    truth = PowerLimit(settles_s, compute=0.18, memory=0.05, pause_s=0.02)
    found = fit_power_limit(rounds(truth, noise=0.005, seed=seed))
    assert found is not None
    assert foretold(truth, found) < 0.012
    assert foretold(truth, PowerLimit(settles_s, 0.0, 0.0, truth.pause_s)) > 0.04, "as the cost model says alone"
    assert found.settles_s == pytest.approx(settles_s, rel=0.25)


@pytest.mark.parametrize("seed", range(3))
def test_there_is_no_limit_where_prefills_do_not_slow_down(seed: int) -> None:
    assert fit_power_limit(rounds(PowerLimit(0.05, 0.0, 0.0, 0.02), noise=0.005, seed=seed)) is None


def test_there_is_none_where_nothing_was_run() -> None:
    """A step of the server has no room for a prefill that draws all the power."""
    assert fit_power_limit([]) is None


def test_what_is_found_is_what_a_profile_may_hold() -> None:
    """Decodes that happen to be faster just behind prefills are not slowed down by less than nothing."""
    faster_first = [
        [
            step._replace(duration_s=MEASURED_S[step.part] * (1 + 1e-3 * number)) if step.part == "behind" else step
            for number, step in enumerate(row)
        ]
        for row in rounds(PowerLimit(0.05, 0.18, 0.05, 0.02), noise=0.0)
    ]
    found = fit_power_limit(faster_first)
    assert found is not None
    assert found.memory == 0.0


@given(SERVERS, STEP_TOKENS, st.floats(1e-9, 1e-3))
def test_steps_in_a_row_fit_a_server_of_any_size(sizes: SchedulerConfig, step_tokens: int, token_s: float) -> None:
    seconds = by_context(token_s)
    before = decode_before(sizes, seconds)
    row = in_a_row(sizes, step_tokens, before, seconds)
    assert bool(row) == Place(1, 2048).fits(sizes, step_tokens)
    assert all((place.kind == "prefill") == (part == "prefill") for part, place in row)
    assert all(place.fits(sizes, step_tokens) for _, place in row)
    assert len(set(row)) <= 3, "steps of a part are equal"


@pytest.mark.parametrize(
    ("token_s", "step_tokens", "chunk", "count"),
    [
        (25e-6, 8192, 2048, 4),  # 51 ms: enough
        (10e-6, 8192, 4096, 5),  # 20, 41
        (4e-6, 8192, 8192, 7),  # 8, 16, 33 ms and no room for more
        (4e-6, 20_000, 16_384, 4),
        (4e-6, 3000, 2048, 10),  # 82 ms at most
        (1e-3, 8192, 2048, 3),  # six seconds at least
    ],
)
def test_prefills_in_a_row_take_a_fifth_of_a_second_where_they_can(
    token_s: float, step_tokens: int, chunk: int, count: int
) -> None:
    before = decoding(64, 128)

    def seconds(place: Place) -> float:
        return token_s * place.prefills * place.chunk if place.prefills else 0.02

    assert in_a_row(SIZES, step_tokens, before, seconds) == [
        *[("before", before)] * 10,  # as long, for the clocks to rise
        *[("prefill", Place(1, chunk))] * count,
        *[("behind", decoding(32, 512))] * 10,
        *[("before", before), ("prefill", Place(1, chunk))] * 4,
    ]

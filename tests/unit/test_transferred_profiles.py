"""A profile of other GPUs, of another number of them or of another model foretells what was measured here."""

import numpy as np
import pytest

from harness.cost.measured import MeasuredProfile
from harness.cost.profile import ProfileCost, roofline_of, transferred
from harness.cost.shape import StepShape
from harness.cost.shipped import SHIPPED
from tests.cost.synthetic import roofline

MEASURED = {
    ("h100_qwen3_8b_tp1", "h200_qwen3_8b_tp1"): (0.04, 0.11),
    ("h200_qwen3_8b_tp1", "h200_qwen3_8b_tp2"): (0.045, 0.13),
    ("h200_qwen3_8b_tp2", "h200_qwen3_8b_tp1"): (0.04, 0.11),
    ("h200_qwen3_32b_tp1", "h200_qwen3_32b_tp2"): (0.025, 0.1),
    ("h200_qwen3_32b_tp2", "h200_qwen3_32b_tp1"): (0.025, 0.07),
    ("h100_qwen3_8b_tp1", "h100_qwen3_14b_tp1"): (0.04, 0.11),
    ("h100_qwen3_14b_tp1", "h100_qwen3_8b_tp1"): (0.04, 0.14),
    ("h200_qwen3_8b_tp1", "h200_qwen3_32b_tp1"): (0.06, 0.17),
}
EVEN = StepShape(0, 0, 0, 0, 256, 256, 204_800, 800, 256)


def shipped(name):
    return MeasuredProfile.load(SHIPPED / name)


@pytest.mark.parametrize(("source", "target"), MEASURED)
def test_measured_steps_are_foretold_from_elsewhere(source, target):
    measured = shipped(target)
    wanted = roofline_of(measured)
    cost = ProfileCost(transferred(shipped(source), wanted), wanted)
    errors = [abs(cost.step_s(point.shape) / point.device_s - 1) for point in measured.steps]
    plain = [abs(wanted.step_s(point.shape) / point.device_s - 1) for point in measured.steps]
    median, p95 = MEASURED[source, target]
    assert np.median(errors) < median < np.median(plain)
    assert np.quantile(errors, 0.95) < p95 < np.quantile(plain, 0.95)


@pytest.mark.parametrize("hardware", ["a100_80", "b200", "l40s"])
@pytest.mark.parametrize("tp", [1, 8])
def test_a_wait_for_one_long_context_is_not_transferred_as_though_it_were_bandwidth(hardware, tp):
    """On a slow memory a block that is left alone loses less; other steps were thought to be as slow as that one."""
    profile = shipped("h100_qwen3_14b_tp1")
    wanted = roofline("qwen3_14b", hardware, tp)
    cost = ProfileCost(transferred(profile, wanted), wanted)
    assert cost.step_s(EVEN) == pytest.approx(wanted.step_s(EVEN), rel=0.15)


@pytest.mark.parametrize(
    ("model", "hardware", "tp", "kept"),
    [
        ("qwen3_8b", "h100", 1, True),
        ("qwen3_8b", "h100", 4, True),
        ("llama3_8b", "h100", 1, True),
        ("qwen3_8b", "h200", 1, False),
        ("qwen3_8b", "a100_80", 2, False),
    ],
)
def test_a_power_limit_is_a_devices_own(model, hardware, tp, kept):
    profile = shipped("h100_qwen3_8b_tp1")
    assert profile.power_limit is not None
    assert transferred(profile, roofline(model, hardware, tp)).power_limit == (profile.power_limit if kept else None)

"""SLOs: the presets, their limits, and which requests meet them."""

from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from harness.metrics.schema import STATUSES, complete_requests
from harness.metrics.slo import Slo, SloError, hold_to, met_by_limit

PRESETS = Path(__file__).parents[2] / "conf" / "slo"


def five():
    """On time, late first token, slow tokens, a single token, failed after it was on time."""
    return complete_requests(
        {
            "request_id": np.arange(6),
            "arrival_s": np.zeros(6),
            "sent_s": np.array([0, 0, 0, 0, 0, np.nan]),
            "client_first_token_s": np.array([1.0, 3.0, 1.0, 1.0, 1.0, np.nan]),
            "client_last_token_s": np.array([2.0, 4.0, 9.0, 1.0, 2.0, np.nan]),
            "itl_p99_s": np.array([0.1, 0.1, 0.8, np.nan, 0.1, np.nan]),
            "prompt_tokens": np.full(6, 5),
            "output_tokens": np.array([11, 11, 11, 1, 11, 0]),
            "priority": np.zeros(6, dtype=np.int64),
            "status": np.array([0, 0, 0, 0, STATUSES.index("timeout"), STATUSES.index("unfinished")]),
            "warmup": np.zeros(6, dtype=bool),
        }
    )


@pytest.mark.parametrize(
    ("limit", "value", "met"),
    [
        ("ttft_s", 2.0, [1, 0, 1, 1, 0, 0]),
        ("tpot_s", 0.2, [1, 1, 0, 1, 0, 0]),
        ("itl_s", 0.2, [1, 1, 0, 1, 0, 0]),
        ("e2e_s", 4.0, [1, 1, 0, 1, 0, 0]),
    ],
)
def test_a_request_meets_a_limit_when_it_ended_ok_within_it(limit, value, met):
    flags = met_by_limit(five(), Slo("test", **{limit: value}))
    assert list(flags) == [limit]
    assert flags[limit].astype(int).tolist() == met


def test_the_table_says_who_met_every_limit_and_null_for_the_unsent():
    held = hold_to(five(), Slo("chat", ttft_s=2.0, tpot_s=0.2))
    assert held["slo_met"].tolist() == [1, 0, 0, 1, 0, -1]
    assert held["slo_class"].tolist() == ["chat"] * 6


def test_without_limits_nobody_is_judged():
    assert (hold_to(five(), Slo("none"))["slo_met"] == -1).all()


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_a_limit_that_is_no_positive_number_is_refused(value):
    with pytest.raises(SloError, match=r"slo\.tpot_s=.*positive number of seconds, or null"):
        Slo("test", tpot_s=value)


def test_presets_are_mlperfs():
    limits = {path.stem: Slo(**OmegaConf.load(path)).limits for path in PRESETS.glob("*.yaml")}
    assert limits == {
        "none": {},
        "llama2_70b": {"ttft_s": 2.0, "tpot_s": 0.2},
        "llama2_70b_interactive": {"ttft_s": 0.45, "tpot_s": 0.04},
        "llama3_8b": {"ttft_s": 2.0, "tpot_s": 0.1},
        "llama3_8b_interactive": {"ttft_s": 0.5, "tpot_s": 0.03},
        "llama3_405b": {"ttft_s": 6.0, "tpot_s": 0.175},
        "deepseek_r1": {"ttft_s": 2.0, "tpot_s": 0.08},
        "gpt_oss_120b": {"ttft_s": 3.0, "tpot_s": 0.08},
    }
    assert all(OmegaConf.load(path)["name"] == path.stem for path in PRESETS.glob("*.yaml"))

"""Leaping over decode steps gives the tables that running them one by one gives, to the last bit."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from harness.cost.roofline import Roofline, build_roofline
from harness.simulator.engine import EngineOptions, SchedulerCosts
from harness.simulator.frontend import HopCosts
from harness.simulator.simulation import ServerModel, Simulation
from harness.workload import Arrivals, Workload
from policies import build_policy
from runtime.scheduler import Batch, DecodeRun, LeapingScheduler, SchedulerConfig
from tests.core.scenarios import PARTS
from traces.generate import Distribution, generate
from traces.generate import Workload as Synthetic
from traces.schema import Trace

CONF = Path(__file__).parents[2] / "conf"
NO_HOPS = HopCosts(*[0.0] * 6, tokenizers=1, detokenize_s=0.0, detokenize_token_s=0.0, send_s=0.0, send_token_s=0.0)
FREE = SchedulerCosts(0.0, 0.0, 0.0, 0.0)
BUSY = SchedulerCosts(20e-3, 1e-3, 10e-3, 2e-3)  # the host is slower than the device
POLICY: dict[str, Any] = {
    "order": {"name": "fcfs"},
    "batching": {"name": "prefill_first", "step_tokens": 32},
    "reservation": {"name": "full"},
    "preemption": {"name": "newest"},
    "eviction": {"name": "lru"},
    "prediction": {"name": "max_tokens"},
}


@cache
def roofline(model: str) -> Roofline:
    conf = [
        yaml.load((CONF / name).read_text(), Loader=yaml.CSafeLoader if hasattr(yaml, "CSafeLoader") else yaml.SafeLoader)
        for name in (f"model/{model}.yaml", "hardware/h100.yaml", "cost/roofline.yaml")
    ]
    return build_roofline(conf[0], conf[1], 1, conf[2])


@dataclass(frozen=True)
class Case:
    trace: Trace
    arrivals: Arrivals
    concurrency: int
    server: ServerModel
    policy: dict[str, Any]

    def simulate(self, *, leap: bool) -> Simulation:
        workload = Workload(self.trace, self.arrivals, self.concurrency)
        simulation = Simulation(workload, replace(self.server, leap=leap), build_policy(self.policy))
        assert simulation.run(lambda _: True)
        return simulation

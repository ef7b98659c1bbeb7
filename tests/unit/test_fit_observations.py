"""Fitting to observed requests: parameters come back from a run that was made with them."""

import numpy as np
import pytest

from harness.compose import compose
from harness.config import ConfigError
from harness.cost.fit import METRICS, ObservationError, fit_observations, held_out
from harness.metrics.importers.load import load_runs
from harness.metrics.schema import complete_requests
from harness.simulator.simulation import Simulation
from harness.workload import Workload
from policies import build_policy
from tests.cost.synthetic import conf
from traces.schema import Trace

TRUE = {
    "hardware.compute_fraction": 0.62,
    "hardware.bandwidth_fraction": 0.7,
    "hardware.attention_bandwidth_fraction": 0.6,
    "backend.hops.receive_s": 6e-3,
}
SERVER = ["model=qwen3_8b", "hardware=h100", "policy=naive"]


def server(*overrides):
    return compose([*SERVER, *overrides])


def requests(config, count=150, seed=0):
    """What the simulator makes of a bursty load of very unequal requests."""
    from harness.backends.sim import server_model

    rng = np.random.default_rng(seed)
    trace = Trace.build(
        name="bursty",
        arrival_s=np.cumsum(rng.gamma(0.4, 0.5, count)),
        prompt_tokens=np.exp(rng.uniform(np.log(20), np.log(9000), count)).astype(int),
        output_tokens=np.exp(rng.uniform(np.log(2), np.log(400), count)).astype(int),
    )
    simulation = Simulation(Workload(trace), server_model(config), build_policy(config.policy))
    assert simulation.run(lambda _: True)
    return complete_requests(simulation.requests.columns(0.0))


def test_parameters_of_a_simulated_run_are_recovered():
    observed = requests(server(*(f"{name}={value}" for name, value in TRUE.items())))
    seen = []
    found = fit_observations(observed, server(), lambda replays, error: seen.append((replays, error)))
    values = {parameter.name: parameter.value for parameter in found.parameters}
    assert list(values) == list(TRUE)
    for name, value in TRUE.items():
        assert values[name] == pytest.approx(value, rel=0.1), name
    before, after = held_out(found.before), held_out(found.after)
    for metric in METRICS:
        assert after[metric].mape < 0.1 < before[metric].mape, metric
        assert after[metric].mape < before[metric].mape / 3, metric
        assert abs(after[metric].of_mean) < 0.08, metric
        assert 20 <= after[metric].requests <= 60
    assert [replays for replays, _ in seen] == sorted(replays for replays, _ in seen)
    assert len(found.overrides) == 4
    assert found.overrides[0] == f"hardware.compute_fraction={values['hardware.compute_fraction']:.6g}"


def test_what_another_tool_measured_can_be_fitted_to(tmp_path):
    """vLLM's file keeps no intended arrivals: what it sent, and when, is replayed."""
    import json

    observed = requests(server("hardware.compute_fraction=0.5"), count=40)
    sent = observed["sent_s"]
    gaps = (observed["client_last_token_s"] - observed["client_first_token_s"]) / np.maximum(
        observed["output_tokens"] - 1, 1
    )
    file = {
        "backend": "vllm",
        "num_prompts": 40,
        "completed": 40,
        "duration": float(observed["client_last_token_s"].max()),
        "total_input_tokens": int(observed["prompt_tokens"].sum()),
        "total_token_throughput": 1.0,
        "total_output_tokens": int(observed["output_tokens"].sum()),
        "input_lens": observed["prompt_tokens"].tolist(),
        "output_lens": observed["output_tokens"].tolist(),
        "ttfts": (observed["client_first_token_s"] - sent).tolist(),
        "itls": [[gap] * (n - 1) for gap, n in zip(gaps.tolist(), observed["output_tokens"].tolist(), strict=True)],
        "start_times": (1e9 + sent).tolist(),
        "errors": [""] * 40,
        "mean_ttft_ms": 1.0,
    }
    (tmp_path / "vllm.json").write_text(json.dumps(file))
    (run,) = load_runs(tmp_path / "vllm.json")
    found = fit_observations(run.columns, server())
    assert found.parameters[0].value == pytest.approx(0.5, rel=0.1)


def test_too_few_requests_are_refused():
    with pytest.raises(ObservationError, match="5 requests ended with tokens: give at least 20"):
        fit_observations(requests(server(), count=5), server())


def test_a_trace_of_other_requests_is_refused():
    observed = requests(server(), count=30)
    other = Trace.build(name="other", arrival_s=[0.0], prompt_tokens=[5], output_tokens=[5], request_id=[77])
    with pytest.raises(ObservationError, match="request 77 of trace other was not observed"):
        fit_observations(observed, server(), trace=other)


def test_only_a_roofline_is_fitted():
    config = server()
    config.cost = conf("cost", "profile")
    with pytest.raises(ConfigError, match=r"cost\.name=profile: .*take cost=roofline"):
        fit_observations({}, config)

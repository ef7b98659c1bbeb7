"""Which cost model a configuration gets: the profile that was measured, the nearest one transferred, or a clear no."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.backends.sim import server_model
from harness.compose import compose
from harness.config import ConfigError
from harness.cost import shipped
from harness.cost.build import build_cost
from harness.cost.errors import CostConfigError
from harness.cost.host import fit_stage, hop_costs, loop_costs
from harness.cost.measured import STAGES, HostPoint, ProfileError
from harness.cost.nonnegative import nonnegative_least_squares
from harness.cost.profile import ProfileCost
from harness.cost.roofline import Roofline
from harness.cost.shape import StepShape
from harness.experiment import load_trace
from harness.simulator.simulation import Simulation
from harness.workload import Workload
from policies import build_policy
from tests.cost.synthetic import conf, profile, roofline

COSTS = {  # seconds: fixed, per sequence, per token
    "receive": (2e-4, 0.0, 2e-8),
    "tokenize": (5e-5, 0.0, 3e-7),
    "hop": (3e-5, 0.0, 0.0),
    "schedule": (4e-5, 2e-6, 1e-8),
    "launch": (3e-5, 1e-7, 0.0),
    "commit": (2e-5, 3e-6, 0.0),
    "collect": (1e-5, 0.0, 0.0),
    "detokenize": (3e-5, 0.0, 5e-6),
    "send": (1e-5, 0.0, 2e-5),
}


def host(overlap=True, slower=1.0):
    points = []
    for stage in STAGES:
        fixed_s, sequence_s, token_s = (cost * slower for cost in COSTS[stage])
        for sequences in (1, 4, 32, 256):
            for tokens in (sequences, 16 * sequences):
                seconds = fixed_s + sequence_s * sequences + token_s * tokens
                points.append(HostPoint(stage, sequences, tokens, True, overlap, seconds, seconds / 50, 20))
    return points


@pytest.fixture
def there(tmp_path, monkeypatch):
    """Two shipped profiles: qwen3_8b on an H100, and on two H200."""
    monkeypatch.setattr(shipped, "SHIPPED", tmp_path)
    for hardware, tp in (("h100", 1), ("h200", 2)):
        measured = replace(profile(roofline("qwen3_8b", hardware, tp)), host=host())
        measured.save(tmp_path / measured.name)
    return tmp_path


def build(model="qwen3_8b", hardware="h100", tp=1, **cost):
    return build_cost(conf("model", model), conf("hardware", hardware), tp, {**conf("cost", "profile"), **cost})


def test_the_profile_of_the_configuration_is_found(there):
    built = build()
    assert isinstance(built.cost, ProfileCost)
    assert built.notes == ()
    assert built.cost.profile.name == "h100_qwen3_8b_tp1"
    point = built.cost.profile.steps[7]
    assert built.cost.step_s(point.shape) == pytest.approx(point.device_s)
    assert len(built.host) == len(host())


@pytest.mark.parametrize(
    ("hardware", "tp", "nearest"),
    [("h100", 4, "h100_qwen3_8b_tp1"), ("h200", 1, "h200_qwen3_8b_tp2"), ("b200", 2, "h200_qwen3_8b_tp2")],
)
def test_the_nearest_is_transferred_by_the_rooflines_and_said_so(there, hardware, tp, nearest):
    built = build(hardware=hardware, tp=tp)
    (note,) = built.notes
    assert f"transferred from {nearest} by the ratio of the rooflines" in note
    source, base = shipped.MeasuredProfile.load(there / nearest), roofline("qwen3_8b", hardware, tp)
    measured_on = roofline("qwen3_8b", source.hardware.name, source.tp)
    point = source.steps[20]
    expected = point.device_s * base.step_s(point.shape) / measured_on.step_s(point.shape)
    assert built.cost.step_s(point.shape) == pytest.approx(expected, rel=0.02)


def test_without_a_profile_of_the_model_the_way_out_is_named(there):
    with pytest.raises(ProfileError) as error:
        build("qwen3_30b_a3b")
    message = str(error.value)
    assert "cost=profile: no profile of qwen3_30b_a3b with weights in any dtype" in message
    assert "h100_qwen3_8b_tp1 (bf16, bf16), h200_qwen3_8b_tp2" in message
    assert "python -m harness calibrate" in message
    with pytest.raises(ProfileError, match="KV in fp8"):
        build(kv_dtype="fp8")


@pytest.mark.parametrize(("model", "hardware"), [("tiny", "h100"), ("qwen3_8b", "cpu")])
def test_what_is_nothing_like_it_is_not_transferred(there, model, hardware):
    with pytest.raises(
        ProfileError, match=f"no profile of {model} .*or of a model like it on a device like {hardware}"
    ):
        build(model, hardware)


def test_a_dense_model_like_it_is_transferred_and_said_so(there):
    built = build("llama3_8b", "h200", 1)
    assert built.notes == (
        "cost: no profile of llama3_8b on h200 with tp=1: transferred from h200_qwen3_8b_tp2, another model's, by the "
        "ratio of the rooflines",
    )
    assert built.cost.model.name == built.cost.profile.model.name == "llama3_8b"


def test_a_named_directory_is_taken(there, tmp_path):
    other = replace(profile(), command="another")
    other.save(tmp_path / "mine")
    assert build(path=str(tmp_path / "mine")).cost.profile.command == "another"
    with pytest.raises(ProfileError, match=r"nowhere: no profile\.yaml there"):
        build(path="nowhere")


def test_unknown_choices_and_knobs_are_named():
    with pytest.raises(CostConfigError, match=r"cost\.name='oracle' must be one of roofline, profile, imported"):
        build(name="oracle")
    with pytest.raises(CostConfigError, match=r"cost\.speed is unknown"):
        build(speed=3)
    with pytest.raises(CostConfigError, match=r"cost\.path is missing: name the directory"):
        build(name="imported")


def test_host_stages_are_recovered():
    for stage, costs in COSTS.items():
        fitted = fit_stage(host(), stage)
        for sequences, tokens in ((1, 1), (10, 50), (256, 4096)):
            expected = costs[0] + costs[1] * sequences + costs[2] * tokens
            assert fitted.at(sequences, tokens) == pytest.approx(expected, rel=0.02), stage
    assert fit_stage(host(), "launch", graph=False) is None
    both = [*host(overlap=True), *host(overlap=False, slower=3.0)]
    fast, slow = (fit_stage(both, "commit", overlap=overlap).at(8, 8) for overlap in (True, False))
    assert slow == pytest.approx(3 * fast, rel=0.01)


def test_a_hop_measured_once_takes_what_was_measured():
    assert hop_costs([HostPoint("hop", 1, 1, False, True, 53e-6, 1e-6, 40)])["hop_s"] == pytest.approx(53e-6, rel=0.01)


def test_an_eager_launch_leads_by_all_but_a_graphs_own_whatever_the_chunk():
    """A chunk's tokens are no sequences: a graph's launch is measured at as many of one as of the other."""
    graphs = [HostPoint("launch", n, n, True, True, 6e-4 + 2e-6 * n, 1e-6, 20) for n in (1, 4, 32, 256)]
    eager = [HostPoint("launch", 1, tokens, False, True, 15e-3, 1e-5, 20) for tokens in (16, 512, 8192)]
    base = roofline("qwen3_8b", "h100", 1)
    measured = ProfileCost(replace(profile(base), host=[*graphs, *eager]), base)
    for tokens in (16, 8192):
        chunk = StepShape(1, tokens, tokens * (tokens + 1) // 2, tokens, sampled=1)
        _, lead_s = measured.launch_s(chunk, graph=False)
        assert lead_s == pytest.approx(15e-3 - 6e-4, rel=0.03)


def test_measured_stages_become_the_simulators_costs_unless_they_are_set(there):
    words = ["model=qwen3_8b", "hardware=h100"]
    measured = server_model(compose([*words, "cost=profile"]))
    assert measured.loop.schedule_s == pytest.approx(4e-5, rel=0.1)
    assert measured.loop.commit_s == pytest.approx(3e-5, rel=0.1)  # with the time to collect
    assert measured.hops.send_token_s == pytest.approx(2e-5, rel=0.1)
    assert measured.hops.client_s == 50e-6  # not measured: what is assumed
    assert measured.notes == ()
    given = server_model(compose([*words, "cost=profile", "backend.hops.send_token_s=1e-3", "backend.loop.commit_s=0"]))
    assert (given.hops.send_token_s, given.loop.commit_s) == (1e-3, 0)
    assumed = server_model(compose(words))
    assert isinstance(assumed.cost, Roofline)
    assert (assumed.loop.schedule_s, assumed.hops.send_token_s) == (60e-6, 13e-6)
    with pytest.raises(ConfigError, match=r"backend\.hops\.send_s=-1"):
        server_model(compose([*words, "backend.hops.send_s=-1"]))


def test_runs_of_decode_steps_are_those_one_by_one_with_a_profile_too(there):
    config = compose(["model=qwen3_8b", "hardware=h100", "cost=profile", "trace.head=60"])
    model, workload = server_model(config), Workload(load_trace(config.trace))
    tables = []
    for leap in (True, False):
        simulation = Simulation(workload, replace(model, leap=leap), build_policy(config.policy))
        assert simulation.run(lambda _: True)
        tables.append(simulation.steps.columns())
    assert all(np.array_equal(leapt, tables[1][name]) for name, leapt in tables[0].items())


def test_names_of_costs_are_the_simulators():
    from dataclasses import fields

    from harness.simulator.engine import SchedulerCosts
    from harness.simulator.frontend import HopCosts

    assert set(loop_costs(host(), True)) == {field.name for field in fields(SchedulerCosts)}
    assert set(hop_costs(host())) == {field.name for field in fields(HopCosts)} - {"client_s", "tokenizers"}
    assert loop_costs((), True) == hop_costs(()) == {}


@given(st.integers(1, 12), st.integers(1, 30), st.integers(0, 10_000))
def test_nonnegative_least_squares_meets_the_conditions_of_its_optimum(coefficients, points, seed):
    """Karush, Kuhn and Tucker: no coefficient below 0, no way down but through those that are 0."""
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(points, coefficients))
    target, prior = rng.normal(size=points), rng.normal(size=coefficients)
    trust = rng.uniform(0.01, 1.0, coefficients)
    x = nonnegative_least_squares(matrix, target, prior, trust)
    slope = matrix.T @ (matrix @ x - target) + trust**2 * (x - prior)
    assert (x >= 0).all()
    assert (slope >= -1e-6).all()
    assert np.abs(slope[x > 0]).max(initial=0.0) < 1e-6

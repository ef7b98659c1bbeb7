"""``tokens.parquet``: when the client saw each token; the request table's columns follow from it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.backends import sim
from harness.cli import main
from harness.compose import compose
from harness.config import ExperimentConfig
from harness.experiment import load_trace
from harness.live.token_times import TokenTimes
from harness.metrics.files import RunError, load_run
from harness.metrics.schema import complete_requests, complete_tokens
from harness.metrics.token_log import TokenLog
from harness.metrics.token_table import token_columns
from harness.simulator.simulation import Simulation
from harness.workload import Workload
from policies import build_policy

TIGHT = ("policy=vllm", "engine.pages=3000", "trace.head=60", "trace.rate=400", "trace.cap_prompt_tokens=300")


def configured(*words: str) -> tuple[ExperimentConfig, Workload]:
    config = compose([*TIGHT, "token_times=true", *words])
    return config, Workload(load_trace(config.trace))


def by_request(tokens: dict[str, Any]) -> dict[int, Any]:
    """Times of tokens by request id, after a look at their positions."""
    found = {}
    for request_id in np.unique(tokens["request_id"]).tolist():
        rows = tokens["request_id"] == request_id
        assert tokens["token"][rows].tolist() == list(range(rows.sum()))
        found[request_id] = tokens["client_s"][rows]
        assert (np.diff(found[request_id]) >= 0).all()
    return found


@pytest.mark.parametrize("leap", [True, False])
def test_what_the_request_table_says_of_tokens_follows_from_their_times(leap: bool) -> None:
    config, workload = configured()
    config.backend["leap"] = leap
    record = sim.replay(config, workload, lambda progress: True)
    assert record.tokens is not None
    requests = complete_requests(record.requests)
    assert (requests["preemptions"] > 0).any()
    times = by_request(complete_tokens(record.tokens))
    for row, request_id in enumerate(requests["request_id"].tolist()):
        seen_s = times[request_id]
        assert len(seen_s) == requests["output_tokens"][row]
        assert seen_s[0] == requests["client_first_token_s"][row]
        assert seen_s[-1] == requests["client_last_token_s"][row]
        if len(seen_s) > 1:
            gaps = np.diff(seen_s)
            assert gaps.max() == requests["itl_max_s"][row]
            assert np.percentile(gaps, 99) == pytest.approx(requests["itl_p99_s"][row])


def test_an_interrupted_run_has_the_tokens_that_came() -> None:
    config, workload = configured("trace.head=300", "backend.leap=false")
    simulation = Simulation(workload, sim.server_model(config), build_policy(config.policy), keep_tokens=True)
    assert not simulation.run(lambda now: now.requests.ended < 20, every_s=0.0)
    requests = complete_requests(simulation.requests.columns(0.0))
    times = by_request(complete_tokens(token_columns(simulation.tokens.times_s())))
    first_s = dict(zip(requests["request_id"].tolist(), requests["client_first_token_s"].tolist(), strict=True))
    begun = {request_id for request_id, seen_s in first_s.items() if not np.isnan(seen_s)}
    assert set(times) == begun
    assert all(seen_s[0] == first_s[request_id] for request_id, seen_s in times.items())
    unfinished = requests["request_id"][requests["status"] != 0].tolist()
    assert any(request_id in times for request_id in unfinished)


def test_live_tokens_are_kept_by_row_whether_closed_or_not() -> None:
    times = TokenTimes(keep=True)
    times.came(5, 2, 0.5)
    times.came(3, 1, 0.75)
    times.came(5, 1, 1.0)
    times.close(5, pool=True)
    times.close(4, pool=True)  # never had one
    table = token_columns(times.times_s())
    assert table["request_id"].tolist() == [5, 5, 5, 3]
    assert table["token"].tolist() == [0, 1, 2, 0]
    assert table["client_s"].tolist() == [0.5, 0.5, 1.0, 0.75]


def test_nothing_is_kept_where_nobody_asked() -> None:
    for log in (TokenLog(), TokenTimes()):
        with pytest.raises(ValueError, match="not kept"):
            list(log.times_s())
    assert {name: len(values) for name, values in token_columns([]).items()} == dict.fromkeys(
        ("request_id", "token", "client_s"), 0
    )


def test_the_command_writes_the_table_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", *TIGHT, "token_times=true", "hydra.run.dir=with"]) == 0
    assert main(["run", *TIGHT, "hydra.run.dir=without"]) == 0
    run = load_run("with")
    counts = run.tokens.groupby("request_id").size()
    assert counts.to_dict() == run.requests.set_index("request_id")["output_tokens"].to_dict()
    assert run.requests.equals(load_run("without").requests)
    with pytest.raises(RunError, match="token_times=true"):
        load_run("without").tokens  # noqa: B018

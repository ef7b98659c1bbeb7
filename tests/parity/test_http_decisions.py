"""What a policy reads of a request travels over HTTP: the server decides as where requests come to it directly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from harness.compose import compose
from harness.config import ConfigError
from harness.decisions import first_difference
from harness.experiment import load_trace, replay
from harness.record import RunRecord

pytest.importorskip("uvicorn", reason="the server needs the runtime extra")

REQUESTS = 40
WORDS = (
    *("backend=emulate", "backend.instant=true", "model=tiny", "hardware=cpu", "workload=all_at_once"),
    *("trace=generated", f"trace.generate.requests={REQUESTS}", "trace.generate.input.mean=200"),
    *("trace.generate.output.mean=24", "trace.generate.prefixes=3", "trace.generate.prefix_tokens.mean=150"),
    *("trace.cap_total_tokens=900", "engine.max_context=1024", "engine.max_running=8", "engine.pages=1500"),
)
RANDOM = np.random.default_rng(0)
WHO: dict[str, Any] = {
    # All differ: who comes first over 40 connections is nobody's to say.
    "priority": RANDOM.permutation(REQUESTS) - 7,
    "session_id": RANDOM.integers(0, 9, REQUESTS),
    "client_id": RANDOM.integers(0, 3, REQUESTS),
    # Far enough apart for the milliseconds of the way.
    "deadline_s": 600.0 + 60.0 * RANDOM.permutation(REQUESTS),
}


def decide(*words: str, **who: Any) -> RunRecord:
    config = compose([*WORDS, *words])
    record = replay(config, load_trace(config.trace).with_columns(**who), lambda _: True)
    assert record.complete, record.failure
    return record


@pytest.mark.parametrize(
    ("policy", "urgency"),
    [
        (("policy/order=priority", "policy/preemption=least_urgent", "policy/eviction=priority"), -WHO["priority"]),
        (("policy/order=edf", "policy/eviction=session"), WHO["deadline_s"]),
    ],
    ids=["priority", "deadline and session"],
)
def test_over_http_and_directly_the_server_decides_alike(policy: tuple[str, ...], urgency: Any) -> None:
    direct, http = (decide("policy=vllm", *policy, f"backend.client={client}", **WHO) for client in ("direct", "http"))
    assert direct.steps is not None
    assert direct.steps["evicted_pages"].sum() > 0
    assert first_difference(direct, http) is None
    admitted_s = http.requests["scheduled_s"][np.argsort(urgency)]
    assert (np.diff(admitted_s) >= 0).all()
    assert admitted_s[-1] > admitted_s[0]


def test_more_requests_at_once_than_sockets_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.backends.served.allow_many_files", lambda: 160)
    with pytest.raises(ConfigError, match=r"40 requests hold a socket each, and 160 files may be open \(ulimit -n\)"):
        decide("backend.client=http")

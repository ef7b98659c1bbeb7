"""Bodies made from our own OpenAPI schema, right and wrong: every answer is below 500, and the server lives."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

pytest.importorskip("uvicorn")
httpx = pytest.importorskip("httpx")
schemathesis = pytest.importorskip("schemathesis")

from runtime.server.launch import Server  # noqa: E402

LIMITS = settings(
    max_examples=40, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck), database=None
)


def test_no_body_gets_a_500(server: Server) -> None:
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    asked: set[str] = set()
    with httpx.Client(base_url=server.url, trust_env=False) as http:
        for operation in (found.ok() for found in schema.get_all_operations()):
            for mode in schemathesis.GenerationMode:
                if mode is schemathesis.GenerationMode.NEGATIVE and operation.method.upper() == "GET":
                    continue  # there is nothing to get wrong

                @LIMITS
                @given(case=operation.as_strategy(generation_mode=mode))
                def answered(case: Any) -> None:
                    asked.add(case.path)
                    answer = case.call(timeout=20)
                    assert answer.status_code < 500, (case.body, answer.text)

                answered()
        assert asked >= {"/v1/chat/completions", "/v1/completions", "/v1/models"}
        assert http.get("/health").status_code == 200
        body = {"model": "tiny", "prompt": "still there?", "max_tokens": 3}
        assert http.post("/v1/completions", json=body).json()["usage"]["completion_tokens"] == 3

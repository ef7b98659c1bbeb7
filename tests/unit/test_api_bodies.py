"""Whatever a client sends, it gets an answer or an error in OpenAI's shape: never a 500."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("fastapi")
httpx = pytest.importorskip("httpx")

from runtime.messages import Ended, Gauges, Piece, Request  # noqa: E402
from runtime.scheduler import SchedulerConfig  # noqa: E402
from runtime.server.api import make_app  # noqa: E402
from runtime.server.config import EngineSpec, Place, ServerConfig  # noqa: E402
from runtime.server.frontend import Frontend  # noqa: E402

CONFIG = ServerConfig(
    model="tiny",
    vocab_size=259,
    scheduler=SchedulerConfig(pages=64, page_size=4, max_running=8, max_context=256),
    policy={},
    engine=EngineSpec("none"),
    max_queued=300,
)
NEVER = float("nan")
FIELDS = [
    *("model", "prompt", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "min_p"),
    *("seed", "n", "stop", "presence_penalty", "frequency_penalty", "repetition_penalty", "logit_bias", "min_tokens"),
    *("ignore_eos", "priority", "stream", "stream_options", "logprobs", "top_logprobs", "return_moments", "other"),
    *("best_of", "user", "chat_template_kwargs", "session_id", "client_id", "deadline_s"),
]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)


class Echo(Frontend):
    """Answers every request itself, at once."""

    def send(self, request: Request) -> None:
        self.sent = request
        ended = Ended("length", None, 3, 2, 0, 1, 0, 0, 0.0, *[NEVER] * 7)
        self._put(Piece(request.request_id, "text", b"", [], None))
        self._put(Piece(request.request_id, "", b"", [], ended))

    async def gauges(self, patience_s: float = 2.0) -> Gauges:
        return Gauges(0, 0, 64, 0, 64)


class Api:
    """The API in this process."""

    def __init__(self, directory: Path) -> None:
        self._runner = asyncio.Runner()
        self.frontend = Echo(Place("api", str(directory), CONFIG))
        transport = httpx.ASGITransport(make_app(CONFIG, self.frontend))
        self._client = httpx.AsyncClient(transport=transport, base_url="http://server")

    def post(self, path: str, content: bytes) -> Any:
        headers = {"content-type": "application/json"}
        return self._runner.run(self._client.post(path, content=content, headers=headers))

    def get(self, path: str) -> Any:
        return self._runner.run(self._client.get(path))

    def close(self) -> None:
        self._runner.run(self._client.aclose())
        self._runner.close()


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    api = Api(tmp_path_factory.mktemp("api"))
    yield api
    api.close()


def assert_sane(answer: Any) -> None:
    assert answer.status_code in (200, 400, 404, 429), answer.text
    if answer.status_code != 200:
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert isinstance(error["message"], str)
        assert error["message"]


paths = st.sampled_from(["/v1/completions", "/v1/chat/completions"])
fuzz = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@fuzz
@given(path=paths, content=st.binary(max_size=100) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_body(api: Api, path: str, content: bytes) -> None:
    assert_sane(api.post(path, content))


@fuzz
@given(path=paths, change=st.dictionaries(st.sampled_from(FIELDS), JSON, min_size=1, max_size=3))
def test_any_value_of_any_field(api: Api, path: str, change: dict[str, Any]) -> None:
    body: dict[str, Any] = {"model": "tiny", "max_tokens": 2}
    if "chat" in path:
        body["messages"] = [{"role": "user", "content": "Hi"}]
    else:
        body["prompt"] = "Hi"
    assert_sane(api.post(path, json.dumps({**body, **change}).encode()))


@pytest.mark.parametrize(
    "content",
    [b"[" * 100_000, b'{"prompt":' * 5000, b'{"prompt": "\\ud800", "model": "tiny"}', b'{"\\ud800": 1}', b"\xff", b""],
    ids=["deep", "deep objects", "half a surrogate", "half a surrogate as field", "no UTF-8", "empty"],
)
def test_bodies_that_are_hardly_json(api: Api, content: bytes) -> None:
    answer = api.post("/v1/completions", content)
    assert_sane(answer)
    assert answer.status_code == 400


@pytest.mark.parametrize(
    ("content", "names"),
    [
        (b"", "Content-Type: application/json"),
        (b"[1]", "must be a JSON object"),
        (b'{"model": }', "not JSON: Expecting value, at character 10"),
        (b'{"model": "\xff"}', "UTF-8"),
        (b'{"max_tokens": ' + b"9" * 5000 + b"}", "no number too long"),
    ],
    ids=["empty", "no object", "cut", "no UTF-8", "endless number"],
)
def test_what_is_wrong_with_a_body_is_said(api: Api, content: bytes, names: str) -> None:
    answer = api.post("/v1/completions", content)
    assert answer.status_code == 400
    assert names in answer.json()["error"]["message"]


def test_a_body_that_would_fill_the_memory_gets_413(api: Api) -> None:
    answer = api.post("/v1/completions", b'{"prompt": "' + b"x" * (17 << 20) + b'"}')
    assert answer.status_code == 413
    assert "16777216 bytes" in answer.json()["error"]["message"]


def test_what_is_asked_is_what_is_sent(api: Api) -> None:
    body = {
        "model": "tiny",
        "prompt": [1, 2, 3],
        "max_tokens": 9,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 5,
        "min_p": 0.1,
        "seed": 7,
        "n": 2,
        "stop": "x",
        "presence_penalty": 0.1,
        "frequency_penalty": 0.2,
        "repetition_penalty": 1.1,
        "logit_bias": {"5": -1},
        "min_tokens": 1,
        "ignore_eos": True,
        "priority": 3,
        "session_id": 2**40,
        "client_id": 6,
        "deadline_s": 1.5,
        "logprobs": 2,
    }
    assert api.post("/v1/completions", json.dumps(body).encode()).status_code == 200
    sent = api.frontend.sent
    assert (sent.max_tokens, sent.stop, sent.ignore_eos, sent.priority) == (9, ["x"], True, 3)
    assert (sent.session_id, sent.client_id, sent.deadline_s - sent.received_s) == (2**40, 6, pytest.approx(1.5))
    params = sent.params
    for name in ("temperature", "top_p", "top_k", "min_p", "min_tokens", "logprobs"):
        assert getattr(params, name) == body[name]
    for name in ("presence_penalty", "frequency_penalty", "repetition_penalty"):
        assert getattr(params, name) == body[name]
    assert params.seed == 8  # the second choice's
    assert params.logit_bias == {5: -1.0}


def test_the_schema_documents_bodies_and_errors(api: Api) -> None:
    schema = api.get("/openapi.json").json()
    for path in ("/v1/completions", "/v1/chat/completions"):
        post = schema["paths"][path]["post"]
        assert {"200", "400", "401", "404", "429"} <= set(post["responses"])
        assert "422" not in post["responses"]
        assert set(post["responses"]["200"]["content"]) == {"application/json", "text/event-stream"}
        name = post["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        body = schema["components"]["schemas"][name]
        assert body["additionalProperties"] is False
        for field in ("priority", "deadline_s", "session_id", "client_id"):
            assert "policy" in body["properties"][field]["description"]


CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}]}
TEXT = {"model": "tiny", "prompt": "Hi"}


def test_null_is_the_default(api: Api) -> None:
    for path, body in (("chat/completions", CHAT), ("completions", TEXT)):
        assert api.post(f"/v1/{path}", json.dumps(body).encode()).status_code == 200
        plain = api.frontend.sent
        nothing = {field: None for field in FIELDS if field not in body}
        assert api.post(f"/v1/{path}", json.dumps({**nothing, **body}).encode()).status_code == 200
        sent = api.frontend.sent
        assert (sent.max_tokens, sent.stop, sent.params) == (plain.max_tokens, plain.stop, plain.params)


@pytest.mark.parametrize(
    "change",
    [
        {"best_of": 1},  # sglang.bench_serving
        {"best_of": 2, "n": 2},
        {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}},  # GuideLLM
        {"top_k": -1},
        {"user": "someone"},
        {"echo": False, "suffix": "", "skip_special_tokens": True},  # what this server does anyway
        {"deadline_s": 30},
    ],
    ids=str,
)
def test_what_other_clients_send_is_taken(api: Api, change: dict[str, Any]) -> None:
    assert api.post("/v1/completions", json.dumps({**TEXT, **change}).encode()).status_code == 200
    assert api.frontend.sent.params.top_k == 0


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"best_of": 3, "n": 2}, "best_of=3"),
        ({"echo": True}, "echo: this server does not do this: the prompt is not repeated"),
        ({"suffix": "end"}, "suffix: this server does not do this"),
        ({"stop_token_ids": [5]}, "stop_token_ids: this server does not do this"),
        ({"stop": ["x"] * 17}, "stop: List should have at most 16 items"),
        ({"stop": ["x", "y" * 1025]}, "stop.1: String should have at most 1024 characters"),
        ({"str": 1}, "str: this server does not know this field"),  # as a type of a field's is called
        ({"list[int]": 1}, "list[int]: this server does not know this field"),
        ({"prompt": [5, -1]}, "prompt.1=-1: Input should be greater than or equal to 0"),
        ({"prompt": "x" * (1 << 20), "n": 128}, "n=128: 134217728 characters"),
        ({"priority": 2**63}, "priority"),
        ({"priority": "high"}, "priority='high': Input should be a valid integer"),
        ({"session_id": "mine"}, "session_id"),
        ({"client_id": 1.5}, "client_id"),
        ({"deadline_s": 0}, "deadline_s"),
        ({"deadline_s": -3.5}, "deadline_s"),
        ({"deadline_s": "soon"}, "deadline_s"),
        ({"deadline_s": float("nan")}, "deadline_s"),
        ({"deadline_s": float("inf")}, "deadline_s"),
        ({"min_tokens": 20, "max_tokens": 19}, "min_tokens=20: at most max_tokens=19"),
        ({"top_k": -2}, "top_k"),
        ({"logit_bias": {str(token): 1 for token in range(1025)}}, "logit_bias"),  # each costs every step
        ({"prompt": ["Hi"] * 100, "n": 4}, "400 choices"),  # no later try will find room
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_will_never_do_is_400_and_says_why(api: Api, change: dict[str, Any], names: str) -> None:
    answer = api.post("/v1/completions", json.dumps({**TEXT, **change}).encode())
    assert answer.status_code == 400
    assert names in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"tools": [{"type": "function"}]}, "tools: this server does not do this: no tools are called"),
        ({"tool_choice": "auto"}, "tool_choice: this server does not do this"),
        ({"response_format": {"type": "json_object"}}, "response_format.type: this server does not do this"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "content.0.type"),
        ({"messages": [CHAT["messages"][0]] * 10_001}, "messages: List should have at most 10000 items"),
    ],
    ids=["tools", "tool_choice", "response_format", "image", "messages"],
)
def test_what_a_chat_cannot_have_is_said(api: Api, change: dict[str, Any], names: str) -> None:
    answer = api.post("/v1/chat/completions", json.dumps({**CHAT, **change}).encode())
    assert answer.status_code == 400
    assert names in answer.json()["error"]["message"]


def test_what_a_chat_has_anyway_may_be_asked_for(api: Api) -> None:
    anyway = {"tool_choice": "none", "response_format": {"type": "text"}, "store": False}
    assert api.post("/v1/chat/completions", json.dumps({**CHAT, **anyway}).encode()).status_code == 200


def test_a_chat_template_is_told_what_the_client_wants(api: Api) -> None:
    options = {"enable_thinking": False, "reasoning_effort": "high"}
    assert api.post("/v1/chat/completions", json.dumps({**CHAT, "chat_template_kwargs": options}).encode())
    assert api.frontend.sent.prompt.options == options
    for wrong in ({"x": "\ud800"}, {"\ud800": True}, {"x": [1]}, {"x": 2**70}):
        answer = api.post("/v1/chat/completions", json.dumps({**CHAT, "chat_template_kwargs": wrong}).encode())
        assert answer.status_code == 400
        assert "chat_template_kwargs" in answer.json()["error"]["message"]

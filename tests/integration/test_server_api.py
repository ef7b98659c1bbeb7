"""What a client of the HTTP API gets, as the ``openai`` client sees it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

pytest.importorskip("uvicorn")
openai = pytest.importorskip("openai")
httpx = pytest.importorskip("httpx")

from runtime.scheduler import SchedulerConfig  # noqa: E402
from runtime.server.launch import Server  # noqa: E402

CHAT: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Hello"}]}
TEXT: dict[str, Any] = {"model": "tiny", "prompt": "Once upon a time"}


@pytest.fixture
def client(server: Server) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def http(server: Server) -> Iterator[Any]:
    with httpx.Client(base_url=server.url, trust_env=False) as client:
        yield client


def test_a_chat_gets_exactly_its_tokens_and_says_what_it_took(client: Any) -> None:
    answer = client.chat.completions.create(**CHAT, max_completion_tokens=7)
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].message.role == "assistant"
    assert answer.usage.completion_tokens == 7
    assert len(answer.choices[0].message.content) == 7  # ASCII, one byte a token
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 7


def test_a_streamed_chat_says_the_same_as_a_whole_one(client: Any) -> None:
    whole = client.chat.completions.create(**CHAT, max_tokens=20, temperature=0)
    chunks = list(client.chat.completions.create(**CHAT, max_tokens=20, temperature=0, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert text == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]
    assert chunks[-1].usage.completion_tokens == 20


def test_usage_has_a_chunk_of_its_own_where_asked_for(client: Any) -> None:
    options = {"include_usage": True}
    chunks = list(client.completions.create(**TEXT, max_tokens=5, stream=True, stream_options=options))
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 5
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_every_chunk_tells_the_usage_so_far_where_asked_for(client: Any) -> None:
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = list(client.chat.completions.create(**CHAT, max_tokens=5, stream=True, stream_options=options))
    assert [chunk.usage.completion_tokens for chunk in chunks] == [0, 1, 2, 3, 4, 5, 5, 5]
    assert len({chunk.usage.prompt_tokens for chunk in chunks}) == 1


def test_a_prompt_that_was_seen_before_is_cached(client: Any) -> None:
    prompt = "The prefix that both of them begin with, forty characters or more."
    client.completions.create(model="tiny", prompt=prompt, max_tokens=2)
    again = client.completions.create(model="tiny", prompt=prompt, max_tokens=2)
    assert again.usage.prompt_tokens_details.cached_tokens >= 60


def test_token_ids_are_a_prompt_like_text(client: Any) -> None:
    text = client.completions.create(**TEXT, max_tokens=8)
    ids = client.completions.create(model="tiny", prompt=list(b"Once upon a time"), max_tokens=8)
    assert ids.choices[0].text == text.choices[0].text


def test_every_prompt_and_choice_has_an_index(client: Any) -> None:
    prompts = ["one", "two", "three"]
    together = client.completions.create(model="tiny", prompt=prompts, n=2, max_tokens=4)
    assert [choice.index for choice in together.choices] == list(range(6))
    alone = [client.completions.create(model="tiny", prompt=prompt, max_tokens=4) for prompt in prompts]
    assert [choice.text for choice in together.choices[::2]] == [answer.choices[0].text for answer in alone]
    assert together.usage.prompt_tokens == sum(answer.usage.prompt_tokens for answer in alone)
    assert together.usage.completion_tokens == 24
    streamed: dict[int, str] = {}
    for chunk in client.completions.create(model="tiny", prompt=prompts, n=2, max_tokens=4, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] = streamed.get(choice.index, "") + choice.text
    assert [streamed[index] for index in range(6)] == [choice.text for choice in together.choices]


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_ends_the_text_before_it(client: Any, stream: bool) -> None:
    whole = client.completions.create(**TEXT, max_tokens=40).choices[0].text
    stop = whole[10:13]
    answer = client.completions.create(**TEXT, max_tokens=40, stop=["never found", stop], stream=stream)
    if stream:
        chunks = list(answer)
        text, reason = "".join(c.choices[0].text for c in chunks), chunks[-1].choices[0].finish_reason
        tokens = chunks[-1].usage.completion_tokens
    else:
        text, reason = answer.choices[0].text, answer.choices[0].finish_reason
        tokens = answer.usage.completion_tokens
    assert text == whole[: whole.index(stop)]
    assert reason == "stop"
    assert tokens == whole.index(stop) + len(stop)


@pytest.mark.parametrize("stream", [False, True])
def test_a_stop_string_within_min_tokens_does_not_end_the_text(client: Any, stream: bool) -> None:
    whole = client.completions.create(**TEXT, max_tokens=20).choices[0].text
    stop = whole[4:6]
    extra = {"min_tokens": 20}
    asked = client.completions.create(**TEXT, max_tokens=20, stop=stop, stream=stream, extra_body=extra)
    text = "".join(chunk.choices[0].text for chunk in asked) if stream else asked.choices[0].text
    assert text == whole


@pytest.mark.parametrize("stream", [False, True])
def test_one_prompt_that_is_refused_is_named_and_the_others_are_given_up(slow_server: Server, stream: bool) -> None:
    limits = {"trust_env": False, "timeout": 60}
    with httpx.Client(base_url=slow_server.url, **limits) as http, ThreadPoolExecutor(1) as pool:

        def running() -> int:
            return http.get("/health").json()["running"]

        body = {"model": "tiny", "prompt": "an older one", "max_tokens": 480}
        older = pool.submit(httpx.post, f"{slow_server.url}/v1/completions", json=body, **limits)
        while not running():
            assert not older.done()
        body |= {"prompt": ["short", "x" * 600, "as short"], "n": 2, "stream": stream}
        answer = http.post("/v1/completions", json=body)
        if answer.status_code == 200:  # the stream had begun
            *_, error, done, end = answer.text.split("\n\n")
            assert (done, end) == ("data: [DONE]", "")
            error = json.loads(error.removeprefix("data: "))["error"]
        else:
            assert answer.status_code == 400
            error = answer.json()["error"]
        assert "prompt[1]: " in error["message"]
        assert "context of 512" in error["message"]
        while running() > 1:
            assert not older.done(), "the others ran to their end"


def test_logprobs_name_the_tokens(client: Any) -> None:
    chat = client.chat.completions.create(**CHAT, max_tokens=3, logprobs=True, top_logprobs=1)
    content = chat.choices[0].logprobs.content
    assert "".join(token.token for token in content) == chat.choices[0].message.content
    assert all(token.top_logprobs[0].token == token.token for token in content)
    text = client.completions.create(**TEXT, max_tokens=3, logprobs=1)
    assert text.choices[0].logprobs.tokens == list(text.choices[0].text)
    assert text.choices[0].logprobs.text_offset == [0, 1, 2]


def test_moments_come_in_order(http: Any) -> None:
    body = http.post("/v1/completions", json={**TEXT, "max_tokens": 3, "return_moments": True}).json()
    moments = list(body["moments"][0].values())
    assert len(moments) == 8
    assert moments == sorted(moments)
    assert body["counts"] == [{"chunks": 1, "preemptions": 0, "recomputed_tokens": 0, "preempted_s": 0.0}]
    plain = http.post("/v1/completions", json={**TEXT, "max_tokens": 3}).json()
    assert not {"moments", "counts"} & set(plain)


def test_without_max_tokens_a_chat_goes_on_to_the_end_of_the_context(client: Any) -> None:
    answer = client.chat.completions.create(**CHAT, extra_body={"ignore_eos": True})
    assert answer.usage.total_tokens == 512


@pytest.mark.parametrize(
    ("path", "change", "names"),
    [
        ("completions", {"prompt": ""}, "empty"),
        ("completions", {"prompt": []}, "prompt"),
        ("completions", {"prompt": "x" * 600}, "context of 512"),
        ("completions", {"prompt": "x" * 10_000}, "10000 characters of prompt exceed the context of 512"),
        ("completions", {"max_tokens": 600}, "context of 512"),
        ("completions", {"max_tokens": 0}, "max_tokens"),
        ("completions", {"max_tokens": -5}, "max_tokens"),
        ("completions", {"prompt": [1, 259]}, "259"),
        ("completions", {"prompt": [-1]}, "prompt"),
        ("completions", {"prompt": "half \ud800"}, "Unicode"),
        ("completions", {"suffix": "x"}, "suffix"),
        ("completions", {"temperature": float("nan")}, "temperature"),
        ("completions", {"seed": 2**70}, "seed"),
        ("completions", {"stop": ""}, "stop"),
        ("completions", {"n": 0}, "n"),
        ("completions", {"stream": False, "stream_options": {"include_usage": True}}, "stream"),
        ("chat/completions", {"messages": []}, "messages"),
        ("chat/completions", {"messages": [{"role": "robot", "content": "x"}]}, "role"),
        ("chat/completions", {"tools": []}, "tools"),
        ("chat/completions", {"max_tokens": 1, "max_completion_tokens": 1}, "max_completion_tokens"),
        ("chat/completions", {"top_logprobs": 3}, "top_logprobs"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_wrong_request_gets_400_that_names_the_field(
    http: Any, path: str, change: dict[str, Any], names: str, stream: bool
) -> None:
    body = {**(TEXT if path == "completions" else CHAT), "stream": stream, **change}
    content = json.dumps(body, allow_nan=True).encode()
    answer = http.post(f"/v1/{path}", content=content, headers={"content-type": "application/json"})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert names in error["message"]
    assert http.get("/health").json()["pages_running"] == 0


def test_errors_that_are_not_400(http: Any) -> None:
    assert http.post("/v1/completions", json={**TEXT, "model": "other"}).status_code == 404
    assert http.get("/v1/completions").status_code == 405
    missing = http.get("/v1/nothing")
    assert missing.status_code == 404
    assert missing.json()["error"]["type"] == "not_found_error"


def test_models_and_metrics(client: Any, http: Any) -> None:
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").max_model_len == 512
    assert http.get("/v1/models/some/other").json()["error"]["code"] == "model_not_found"
    client.completions.create(**TEXT, max_tokens=2)
    lines = dict(line.rsplit(" ", 1) for line in http.get("/metrics").text.splitlines() if line[0] != "#")
    assert float(lines['servetwin_requests_total{status="ok"}']) >= 1
    assert float(lines["servetwin_output_tokens_total"]) >= 2
    pages = {state: float(lines[f'servetwin_kv_pages{{state="{state}"}}']) for state in ("free", "cached", "running")}
    assert pages["running"] == 0
    assert sum(pages.values()) == 256


def test_an_api_key_is_asked_for(start: Any) -> None:
    with start(api_key="secret") as server:
        anonymous = httpx.post(f"{server.url}/v1/completions", json=TEXT, trust_env=False)
        assert anonymous.status_code == 401
        assert anonymous.json()["error"]["code"] == "invalid_api_key"
        for key, content in ((None, b"x" * (1 << 20)), ("Bearer secre", b"{"), ("secret", b"{}"), ("Bearer é", b"{}")):
            headers = {b"content-type": b"application/json"}
            if key is not None:
                headers[b"authorization"] = key.encode()
            unread = httpx.post(f"{server.url}/v1/completions", content=content, headers=headers, trust_env=False)
            assert unread.status_code == 401, "it is asked for before the body is looked at"
        assert httpx.get(f"{server.url}/v1/models", trust_env=False).status_code == 401
        assert httpx.get(f"{server.url}/health", trust_env=False).status_code == 200
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="secret") as client:
            assert client.completions.create(**TEXT, max_tokens=2).usage.completion_tokens == 2


def test_a_full_queue_gets_429_and_when_to_come_again(start: Any) -> None:
    sizes = SchedulerConfig(pages=64, page_size=4, max_running=1, max_context=128)
    with (
        start(scheduler=sizes, max_queued=1, step_s=0.02) as server,
        httpx.Client(base_url=server.url, trust_env=False) as http,
        http.stream("POST", "/v1/completions", json={**TEXT, "max_tokens": 100, "stream": True}) as running,
    ):
        chunks = running.iter_raw()  # held: the stream ends with it
        next(chunks)
        full = http.post("/v1/completions", json={**TEXT, "n": 2})
        assert full.status_code == 429
        assert int(full.headers["retry-after"]) >= 1
        assert full.json()["error"]["code"] == "queue_full"

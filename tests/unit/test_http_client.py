"""What the HTTP client makes of a stream: how many tokens there were, and what a server tells beside them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import numpy as np
import pytest

pytest.importorskip("aiohttp")

from harness.live.http import Endpoint, HttpTransport
from harness.live.player import Player
from harness.workload import Workload
from traces.prompts import PromptMaker
from traces.schema import Trace


@contextmanager
def answering(events: list[dict[str, Any]], asked: list[dict[str, Any]]) -> Iterator[str]:
    """A server that answers every completion with these events, and keeps what is asked; yields its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:  # the base class's name
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            for event in events:
                self.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")
            self.wfile.write(b"data: [DONE]\n\n")

        def log_message(self, *args: Any) -> None:
            """Not to standard error."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def replayed(events: list[dict[str, Any]]) -> tuple[dict[str, Any], list[int]]:
    """The request table of one request so answered, and its tokens' positions."""
    trace = Trace.build("one", arrival_s=[0.0], prompt_tokens=[8], output_tokens=[3])
    workload = Workload(trace)
    with answering(events, []) as url:
        transport = HttpTransport(Endpoint(url, "model", None, False, 10.0, {}), workload, PromptMaker(trace, 100, 0))
        player = Player(workload, transport, 10.0, keep_tokens=True)
        try:
            assert player.play(lambda progress: True).complete
        finally:
            transport.close()
    tokens = player.tokens()
    assert tokens is not None
    return player.log.columns(0.0), tokens["token"].tolist()


def text(words: str, reason: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "text": words, "finish_reason": reason}]}


def usage(tokens: int) -> dict[str, Any]:
    details = {"cached_tokens": 4}
    return {"choices": [], "usage": {"prompt_tokens": 8, "completion_tokens": tokens, "prompt_tokens_details": details}}


@pytest.mark.parametrize(
    "events",
    [
        [text("a"), text("b"), text("c"), text("", "length"), usage(3)],
        [text("a"), text("b"), text("c", "length"), usage(3)],  # the last chunk is a token
        [text("a"), text(""), text("b"), text("\ufffd", "length"), usage(3)],  # it is text that was held back
        [text("a"), text("b"), text("c", "length")],  # no usage: as many as chunks with text
    ],
    ids=["an end of its own", "a token at the end", "held back text at the end", "no usage"],
)
def test_tokens_are_those_that_the_server_counted(events: list[dict[str, Any]]) -> None:
    table, tokens = replayed(events)
    assert tokens == [0, 1, 2]
    assert table["output_tokens"].tolist() == [3]


def test_what_only_our_server_tells_is_null_from_another() -> None:
    told = {"chunks": 2, "preemptions": 1, "recomputed_tokens": 9, "preempted_s": 0.25}
    table, _ = replayed([text("a"), text("b"), text("c"), text("", "length") | {"counts": [told]}, usage(3)])
    assert {name: table[name].item(0) for name in told} == told
    assert table["cached_tokens"].tolist() == [4]
    table, _ = replayed([text("a"), text("b"), text("c"), text("", "length"), usage(3)])
    assert [table[name].item(0) for name in ("chunks", "preemptions", "recomputed_tokens")] == [-1, -1, -1]
    assert np.isnan(table["preempted_s"]).all()
    assert table["cached_tokens"].tolist() == [4]


@pytest.mark.parametrize("ours", [True, False])
def test_a_server_of_ours_is_told_what_policies_read_and_its_ids_are_known(ours: bool) -> None:
    columns: dict[str, Any] = {"priority": [-3, 4], "session_id": [9, -1], "client_id": [-1, 2]}
    trace = Trace.build(
        "two",
        arrival_s=[0.0, 0.0],
        prompt_tokens=[8, 8],
        output_tokens=[1, 1],
        request_id=[70, 71],
        deadline_s=[2.5, float("nan")],
        **columns,
    )
    asked: list[dict[str, Any]] = []
    with answering([text("a") | {"id": "cmpl-1000000000005"}, text("", "length"), usage(1)], asked) as url:
        endpoint = Endpoint(url, "model", None, False, 10.0, {}, ours)
        transport = HttpTransport(endpoint, Workload(trace), PromptMaker(trace, 100, 0))
        try:
            for row in range(2):
                transport.send(row, 0.0, 0.0)
                while not any(news.finish for news in transport.receive(5.0)):
                    pass
        finally:
            transport.close()
    told = [{name: body.get(name) for name in (*columns, "deadline_s")} for body in asked]
    if ours:
        assert told == [
            {"priority": -3, "session_id": 9, "client_id": -1, "deadline_s": 2.5},
            {"priority": 4, "session_id": -1, "client_id": 2, "deadline_s": None},
        ]
        assert transport.known_as == {(1 << 48) + 5: 71}  # the later of two answers with one id
    else:
        assert not {name for body in asked for name in body} & set(told[0]), "another server may refuse them"
        assert transport.known_as == {}


def test_a_proxy_before_a_server_of_ours_may_number_answers_itself() -> None:
    trace = Trace.build("one", arrival_s=[0.0], prompt_tokens=[8], output_tokens=[1])
    with answering([text("a") | {"id": "chatcmpl-proxy"}, text("", "length"), usage(1)], []) as url:
        endpoint = Endpoint(url, "model", None, False, 10.0, {}, ours=True)
        transport = HttpTransport(endpoint, Workload(trace), PromptMaker(trace, 100, 0))
        try:
            transport.send(0, 0.0, 0.0)
            finish = None
            while finish is None:
                news = transport.receive(5.0)
                assert news, "no one was told that the request ended"
                finish = next((each.finish for each in news if each.finish is not None), None)
        finally:
            transport.close()
    assert (finish.status, transport.known_as) == ("ok", {})

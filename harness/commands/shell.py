"""A chat in the terminal with a server that is running."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

_INTRODUCTION = "An empty line begins a new conversation; Ctrl-D leaves.\n"


def chat(url: str, model: str, api_key: str | None, check: Callable[[], None]) -> None:
    """Read lines from standard input and stream the answers, until its end.

    Args:
        url: Of the server, without ``/v1``.
        model: Its model.
        api_key: What it wants, or None.
        check: Called before each turn; raises where the server has died.
    """
    sys.stdout.write(_INTRODUCTION)
    messages: list[dict[str, str]] = []
    while True:
        sys.stdout.write("> ")
        sys.stdout.flush()
        line = sys.stdin.readline()
        if not line:
            sys.stdout.write("\n")
            return
        check()
        if not line.strip():
            messages.clear()
            continue
        messages.append({"role": "user", "content": line.rstrip("\n")})
        answer = ""
        try:
            for text in stream(url, model, api_key, messages):
                answer += text
                sys.stdout.write(text)
                sys.stdout.flush()
        except OSError as error:
            check()
            answer = f"(no answer: {error})"
            sys.stdout.write(answer)
        sys.stdout.write("\n")
        messages.append({"role": "assistant", "content": answer})


def stream(url: str, model: str, api_key: str | None, messages: list[dict[str, str]]) -> Iterator[str]:
    """The text of an answer as it comes, or an error's message.

    Raises:
        OSError: The connection is lost.
    """
    body = json.dumps({"model": model, "messages": messages, "stream": True})
    headers = {"Content-Type": "application/json"}
    if api_key is not None:
        headers["Authorization"] = f"Bearer {api_key}"
    connection = HTTPConnection(urlsplit(url).netloc)
    try:
        connection.request("POST", "/v1/chat/completions", body, headers)
        response = connection.getresponse()
        if response.status != 200:
            yield _error(json.loads(response.read()))
            return
        for line in response:
            if not line.startswith(b"data: ") or line == b"data: [DONE]\n":
                continue
            event: dict[str, Any] = json.loads(line[len(b"data: ") :])
            if "error" in event:
                yield _error(event)
                return
            for choice in event["choices"]:
                yield choice["delta"].get("content", "")
    finally:
        connection.close()


def _error(body: dict[str, Any]) -> str:
    return f"({body['error']['message']})"

"""A client without HTTP: it takes the API server's place between tokenizers and detokenizer."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TypeVar

from runtime.messages import (
    TOKENIZER,
    WORKER,
    Abort,
    Gather,
    Gathering,
    Gauges,
    Output,
    Piece,
    Ping,
    Request,
    StepRecord,
    ToFrontend,
)
from runtime.server.config import ServerConfig
from runtime.server.mail import Inbox, Outbox

_MessageT = TypeVar("_MessageT")


class Client:
    """Sends requests to a server's tokenizers and receives what comes of them.

    Args:
        directory: The server's private directory (``Server.directory``).
        config: The server.
        name: Its inbox: lower-case letters, and digits behind them.
    """

    def __init__(self, directory: Path, config: ServerConfig, name: str = "client") -> None:
        self.name = name
        self._inbox = Inbox(directory, name, ToFrontend)
        self._outbox = Outbox(directory)
        self._set_aside: list[Output] = []  # came while something else was waited for
        self._tokenizers = [TOKENIZER.format(index) for index in range(config.tokenizers)]

    def send(self, request: Request) -> None:
        """Send a request; its ``frontend`` must be this client's name."""
        self._outbox.send(self._tokenizer(request.request_id), request)

    def abort(self, request_id: int) -> None:
        """Give a request up; it still ends with a last piece, unless it had ended already."""
        self._outbox.send(self._tokenizer(request_id), Abort(request_id))

    def receive(self, timeout_s: float) -> list[Piece]:
        """News of requests; none if none came within ``timeout_s``."""
        messages, self._set_aside = self._set_aside or self._inbox.wait(timeout_s), []
        return [piece for message in messages if isinstance(message, Output) for piece in message.pieces]

    def gather(self, requests: int, timeout_s: float = 60.0) -> None:
        """Have the server plan no step until it has so many requests, to be sent now. It must be empty.

        Raises:
            TimeoutError: The server did not answer.
        """
        self._outbox.send(WORKER.format(0), Gather(requests, self.name))
        self._wait_for(Gathering, timeout_s)

    def gauges(self, timeout_s: float = 10.0) -> Gauges:
        """The scheduler's state, by a round trip through all processes.

        Raises:
            TimeoutError: The server did not answer.
        """
        self._outbox.send(self._tokenizers[0], Ping(self.name, 0))
        gauges = self._wait_for(Ping, timeout_s).gauges
        if gauges is None:
            raise AssertionError("the worker fills a ping's gauges in")
        return gauges

    def close(self) -> None:
        """Leave the server; its own sockets go with it."""
        self._inbox.close()
        self._outbox.close()

    def _tokenizer(self, request_id: int) -> str:
        # An abort takes its request's way.
        return self._tokenizers[request_id % len(self._tokenizers)]

    def _wait_for(self, kind: type[_MessageT], timeout_s: float) -> _MessageT:
        deadline_s = time.monotonic() + timeout_s
        while (left_s := deadline_s - time.monotonic()) > 0:
            messages = self._inbox.wait(left_s)
            self._set_aside += [message for message in messages if isinstance(message, Output)]
            for message in messages:
                if isinstance(message, kind):
                    return message
        raise TimeoutError(f"the server did not answer within {timeout_s:g} s")


class StepReader:
    """Receives rank 0's step records.

    Args:
        directory: The server's private directory.
        name: Its inbox: ``ServerConfig.record_steps``.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self._inbox = Inbox(directory, name, StepRecord)

    def receive(self, timeout_s: float) -> list[StepRecord]:
        """The records that came; none if none came within ``timeout_s``."""
        return self._inbox.wait(timeout_s)

    def close(self) -> None:
        """Close the inbox."""
        self._inbox.close()

"""Inboxes: every process has one, a ZMQ socket file in the server's private directory, and puts into the others'."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import msgspec
import zmq

from runtime.messages import Message, decoder

logger = logging.getLogger(__name__)

_NAME = re.compile(r"[a-z]+[0-9.]*")


def _address(directory: Path, name: str) -> str:
    return f"ipc://{directory / name}"


class Inbox:
    """Messages to this process, from each sender in the order it sent them.

    Args:
        directory: The server's private directory.
        name: The process.
        kind: Union of the messages that may come; others are dropped with a line in the log.
    """

    def __init__(self, directory: Path, name: str, kind: Any) -> None:
        self._name = name
        self._decode = decoder(kind).decode
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PULL)
        self._socket.setsockopt(zmq.RCVHWM, 0)
        self._socket.bind(_address(directory, name))

    @property
    def fd(self) -> int:
        """Becomes readable when messages may have come: :meth:`take` them all then, it does so only once."""
        return int(self._socket.getsockopt(zmq.FD))

    def take(self) -> list[Any]:
        """The messages that came."""
        messages: list[Any] = []
        while True:
            try:
                data = self._socket.recv(zmq.NOBLOCK)
            except zmq.Again:
                return messages
            message = self._decoded(data)
            if message is not None:
                messages.append(message)

    def wait(self, timeout_s: float | None = None) -> list[Any]:
        """The messages that came, waiting for the first; none if none came within ``timeout_s``."""
        while True:
            if not self._socket.poll(None if timeout_s is None else max(int(timeout_s * 1000), 0)):
                return []
            messages = self.take()
            if messages or timeout_s is not None:
                return messages

    def next(self) -> Any:
        """The next message, waiting for it."""
        while True:
            message = self._decoded(self._socket.recv())
            if message is not None:
                return message

    def close(self) -> None:
        """Close the socket and remove its file."""
        self._socket.close(linger=0)

    def _decoded(self, data: bytes) -> Any | None:
        try:
            return self._decode(data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            logger.warning("%s: dropped a message of %d bytes: %s", self._name, len(data), error)
            return None


class Outbox:
    """Puts messages into other processes' inboxes; a send never waits.

    Args:
        directory: The server's private directory.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._sockets: dict[str, zmq.Socket[bytes]] = {}
        self._encode = msgspec.msgpack.Encoder().encode

    def send(self, name: str, message: Message) -> None:
        """Put a message into the inbox of that name; where there can be no such inbox, a line goes into the log."""
        socket = self._sockets.get(name)
        if socket is None:
            if not _NAME.fullmatch(name):  # it may have come in a message
                logger.warning("dropped a %s for %r: no inbox has such a name", type(message).__name__, name)
                return
            socket = self._connect(name)
        socket.send(self._encode(message), copy=True)

    def close(self, linger_s: float = 1.0) -> None:
        """Close the sockets, after what was sent is on its way."""
        for socket in self._sockets.values():
            socket.close(linger=int(linger_s * 1000))
        self._sockets.clear()

    def _connect(self, name: str) -> zmq.Socket[bytes]:
        socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.PUSH)
        socket.setsockopt(zmq.SNDHWM, 0)
        socket.connect(_address(self._directory, name))
        self._sockets[name] = socket
        return socket

"""Bounds on what a client may send and how long it may take: one must not hold the API server's memory or sockets."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from starlette.exceptions import HTTPException

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
    from uvicorn.protocols.http.h11_impl import H11Protocol as HttpProtocol
else:
    from uvicorn.protocols.http.auto import AutoHTTPProtocol as HttpProtocol  # httptools, where it is installed

_PATIENCE_S = 10.0  # with a request that does not go on
_LOOKS = 10  # at its socket meanwhile: after a long step the event loop hears of time that passed before it reads
_MOST_HEAD_BYTES = 64 << 10


class BodyLimit:
    """ASGI middleware that answers a longer body with 413, and one of which nothing more comes with 408.

    Args:
        app: What is behind it.
        most_bytes: The longest body.
        patience_s: Seconds that the next part of a body may take.
    """

    def __init__(self, app: ASGIApp, most_bytes: int, patience_s: float = _PATIENCE_S) -> None:
        self._app = app
        self._most_bytes = most_bytes
        self._patience_s = patience_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count the body as it comes, whatever its headers say."""
        taken = 0
        complete = False

        async def counted() -> Message:
            nonlocal taken, complete
            message = await receive() if complete else await self._patiently(receive)
            if message is None:
                said = f"{taken} bytes of the body came, and for {self._patience_s:g} s nothing more"
                raise HTTPException(408, said, {"Connection": "close"})
            taken += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if taken > self._most_bytes:
                raise HTTPException(413, f"the body is longer than {self._most_bytes} bytes")
            return message

        await self._app(scope, counted, send)

    async def _patiently(self, receive: Receive) -> Message | None:
        for _ in range(_LOOKS):
            with suppress(TimeoutError):
                async with asyncio.timeout(self._patience_s / _LOOKS):
                    return await receive()
        return None


class Connection(HttpProtocol):
    """A client's connection, which is closed when the head of a request is too long or too long in coming."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_bytes = 0
        self._late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client has come."""
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        """Part of a request came, or the whole of it."""
        super().data_received(data)
        if self.cycle is not None and (self.cycle.more_body or not self.cycle.response_complete):  # no head is awaited
            self._head_bytes = 0
            self._forget()
            return
        self._head_bytes += len(data)
        if self._head_bytes > _MOST_HEAD_BYTES:
            self.transport.close()
        if self._late is None:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone."""
        super().connection_lost(exc)
        self._forget()

    def _await_head(self, looks: int = _LOOKS) -> None:
        following = (self._await_head, looks - 1) if looks > 1 else (self.transport.close,)
        self._late = self.loop.call_later(_PATIENCE_S / _LOOKS, *following)

    def _forget(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

"""The API key: asked for before anything else of a request is read."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING

from starlette.responses import Response

from runtime.server.errors import ApiError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send


class ApiKey:
    """ASGI middleware that answers requests to ``/v1/`` without the key with 401, whatever is in them.

    Args:
        app: What is behind it.
        key: What clients must send as a bearer token.
    """

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app = app
        self._wanted = f"Bearer {key}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it."""
        answer = self._app if self._may(scope) else _refusal()
        await answer(scope, receive, send)

    def _may(self, scope: Scope) -> bool:
        if scope["type"] != "http" or not scope["path"].startswith("/v1/"):
            return True
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        return hmac.compare_digest(given, self._wanted)


def _refusal() -> Response:
    error = ApiError(401, "this server wants an API key: Authorization: Bearer KEY", code="invalid_api_key")
    return Response(error.body, error.status, media_type="application/json")

"""Errors as the API tells them."""

from __future__ import annotations

from typing import Any

import msgspec


class ApiError(Exception):
    """An error that a client gets, in OpenAI's shape.

    Args:
        status: HTTP status.
        message: For a person; names the field, the value and the way out.
        code: For a program.
        param: The field.
        headers: Of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers or {}
        self._code = code
        self._param = param

    @property
    def body(self) -> bytes:
        """The answer's body, JSON."""
        return encoded({"error": self.detail})

    @property
    def detail(self) -> dict[str, Any]:
        """What is under ``error``."""
        kind = "server_error" if self.status >= 500 else _TYPES.get(self.status, "invalid_request_error")
        return {
            "message": printable(str(self)),
            "type": kind,
            "param": None if self._param is None else printable(self._param),
            "code": self._code,
        }


_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}

encoded = msgspec.json.Encoder().encode


def printable(text: str) -> str:
    """Text that can be written as UTF-8: a client may have sent half a surrogate pair."""
    return text.encode(errors="replace").decode()

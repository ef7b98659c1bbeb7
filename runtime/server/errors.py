"""Errors as the API tells them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from collections.abc import Sequence as Sequences
from typing import Any

import msgspec

from runtime.server.protocol import NOT_DONE


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


def complaint(found: Sequences[Mapping[str, Any]]) -> ApiError:
    """What is told of a body that is not as it must be.

    Args:
        found: Pydantic's errors. Where a field may be of several types there is one of each: the first that is not
            just about the type is of the one that was meant.
    """
    told = next((error for error in found if error["type"] not in _OTHER_TYPE), found[0])
    kind, message = told["type"], str(told["msg"]).removeprefix("Value error, ")
    path = [str(part) for part in told["loc"][1:]]
    end = len(path) - (kind == "extra_forbidden")  # the last is then a name of the client's, which may be any
    where = [part for at, part in enumerate(path) if not (0 < at < end and _BRANCH.search(part))]
    if kind == "json_invalid":
        return ApiError(400, f"the body is not JSON: {told['ctx']['error']}, at character {told['loc'][-1]}")
    if not where and kind in ("missing", "model_attributes_type"):
        return ApiError(400, "the body must be a JSON object, sent with Content-Type: application/json")
    field = ".".join(where)
    if kind in ("extra_forbidden", "literal_error") and where[0] in NOT_DONE:
        message = f"this server does not do this: {NOT_DONE[where[0]]}; leave it out"
    elif kind == "extra_forbidden":
        message = "this server does not know this field"
    elif field and isinstance(told["input"], str | int | float) and len(value := repr(told["input"])) <= _MOST_SHOWN:
        return ApiError(400, f"{field}={value}: {message}", param=field)
    return ApiError(400, f"{field}: {message}" if field else message, param=field or None)


_MOST_SHOWN = 40  # characters of a wrong value
_OTHER_TYPE = ("string_type", "list_type", "int_type")
_BRANCH = re.compile(r"^(str|constrained-str|int|constrained-int)$|\[")  # pydantic's name of one of several types
_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}

encoded = msgspec.json.Encoder().encode


def printable(text: str) -> str:
    """Text that can be written as UTF-8: a client may have sent half a surrogate pair."""
    return text.encode(errors="replace").decode()

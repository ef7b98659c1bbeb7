"""Server-sent events, as far as an OpenAI-compatible server uses them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

_DATA = b"data: "


async def event_data(pieces: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """The data of events, each of one line; events that came in one piece take one wait.

    Args:
        pieces: Of the stream, cut anywhere.
    """
    rest = b""
    async for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            if line.startswith(_DATA):
                yield line[len(_DATA) :].strip()
    if rest.startswith(_DATA):
        yield rest[len(_DATA) :].strip()

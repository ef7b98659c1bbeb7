"""One HTTP answer: waits for the pieces of its choices, writes them, and gives up when the client is gone."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from runtime.messages import Ended, Piece
from runtime.server.answers import DONE, Chunks, Shape, counts, error_event, moments, refusal_of, usage
from runtime.server.errors import ApiError, encoded
from runtime.server.frontend import Answer, ClientGoneError, Frontend
from runtime.server.meters import Meters

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send

    from runtime.server.protocol import Generation

logger = logging.getLogger(__name__)

_PATIENCE_S = 60.0
_JSON = [(b"content-type", b"application/json")]
_EVENTS = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-cache")]


class AnswerResponse(Response):
    """The answer to a request that was sent on its way.

    A client that takes nothing of it for a minute is gone, though it holds the connection: what comes meanwhile waits
    in this process's memory.

    Args:
        frontend: To close the answer with.
        answer: Where its pieces come.
        choices: How many choices it has.
        body: What was asked.
        shape: Of the endpoint.
        meters: To count in.
    """

    def __init__(
        self, frontend: Frontend, answer: Answer, choices: int, body: Generation, shape: Shape, meters: Meters
    ) -> None:
        super().__init__()
        self._frontend = frontend
        self._answer = answer
        self._choices = choices
        self._body = body
        self._shape = shape
        self._meters = meters
        self._ends: dict[int, Ended] = {}
        self._begun = False  # a stream
        self._created = int(time.time())
        self._id = f"{shape.id_prefix}{answer.first_id:x}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        del scope
        gone = asyncio.create_task(self._watch_client(receive))
        begun_s = time.monotonic()
        status = "aborted"
        try:
            async with asyncio.timeout(None) as patience:
                patient = _patient(send, patience)
                try:
                    await (self._stream(patient) if self._body.stream else self._complete(patient))
                    status = "ok"
                except ApiError as error:
                    status = "rejected"
                    await self._refuse(patient, error)
        except ClientGoneError:
            pass
        except OSError:  # the client went in the middle of a write, or would not read (TimeoutError)
            pass
        finally:
            gone.cancel()
            self._frontend.close(self._answer)
            self._meters.ended(status, begun_s, self._ends.values())

    async def _watch_client(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._answer.cut()

    def _index(self, piece: Piece) -> int:
        """The choice that a piece is of; notes its end.

        Raises:
            ApiError: It was refused.
        """
        index = piece.request_id - self._answer.first_id
        if piece.ended is not None:
            prompt = index // self._body.n if self._choices > self._body.n else None
            refused = refusal_of(piece.request_id, piece.ended, prompt)
            if refused is not None:
                raise refused
            self._ends[index] = piece.ended
        return index

    async def _complete(self, send: Send) -> None:
        pieces: list[list[Piece]] = [[] for _ in range(self._choices)]
        while len(self._ends) < self._choices:
            for piece in await self._answer.pieces():
                pieces[self._index(piece)].append(piece)
        ends = self._ordered_ends()
        shape = self._shape
        content: dict[str, Any] = {
            "id": self._id,
            "object": shape.complete_object,
            "created": self._created,
            "model": self._body.model,
            "choices": [shape.choice(index, pieces[index], ended.reason) for index, ended in enumerate(ends)],
            "usage": usage(ends, self._body.n),
        }
        if self._body.return_moments:
            content["moments"] = [moments(ended) for ended in ends]
            content["counts"] = [counts(ended) for ended in ends]
        await _send_whole(send, 200, encoded(content))

    async def _stream(self, send: Send) -> None:
        body = self._body
        chunks = Chunks(self._shape, self._id, body.model, self._created, body.include_usage, body.continuous_usage)
        written: list[bytes] = []
        while len(self._ends) < self._choices:
            written.clear()
            for piece in await self._answer.pieces():
                index = self._index(piece)
                if piece.ended is not None:
                    beside = self._beside(piece.ended)
                    written.append(chunks.end(index, piece, piece.ended.reason, beside))
                elif piece.tokens:  # also without text, as vLLM: clients time tokens by chunks
                    written.append(chunks.chunk(index, piece))
            if not self._begun:
                self._begun = True
                await send({"type": "http.response.start", "status": 200, "headers": _EVENTS})
            if written:
                await send({"type": "http.response.body", "body": b"".join(written), "more_body": True})
        last = DONE
        if body.include_usage:
            last = chunks.usage(usage(self._ordered_ends(), body.n)) + DONE
        await send({"type": "http.response.body", "body": last, "more_body": False})

    async def _refuse(self, send: Send, error: ApiError) -> None:
        if self._begun:
            await send({"type": "http.response.body", "body": error_event(error) + DONE, "more_body": False})
        else:
            await _send_whole(send, error.status, error.body, error.headers)

    def _beside(self, ended: Ended) -> dict[str, Any]:
        """What goes beside the choices of a choice's last chunk."""
        beside: dict[str, Any] = {}
        if self._body.continuous_usage:
            beside["usage"] = usage([ended], 1)
        elif self._body.include_usage:
            beside["usage"] = None
        elif len(self._ends) == self._choices:
            beside["usage"] = usage(self._ordered_ends(), self._body.n)
        if self._body.return_moments:
            beside["moments"] = [moments(ended)]
            beside["counts"] = [counts(ended)]
        return beside

    def _ordered_ends(self) -> list[Ended]:
        return [self._ends[index] for index in range(self._choices)]


def _patient(send: Send, patience: asyncio.Timeout) -> Send:
    """Sends that end, by ``patience``, when the client takes nothing of what was sent before."""
    clock = asyncio.get_running_loop().time

    async def patient(message: Message) -> None:
        patience.reschedule(clock() + _PATIENCE_S)
        await send(message)
        patience.reschedule(None)

    return patient


async def _send_whole(send: Send, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
    fields = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
    fields += [*_JSON, (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})

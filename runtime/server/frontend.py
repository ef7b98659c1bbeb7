"""The API server's side of the messages: requests go to tokenizers, and pieces of answers come back to who waits."""

from __future__ import annotations

import asyncio
import time
from itertools import count

from runtime.messages import (
    API,
    API_REQUEST_IDS,
    TOKENIZER,
    WORKER,
    Abort,
    Alive,
    Gauges,
    Output,
    Piece,
    Ping,
    Request,
    Stop,
    ToFrontend,
)
from runtime.server.config import Place
from runtime.server.errors import ApiError
from runtime.server.mail import Inbox, Outbox
from runtime.server.pulse import Vigil


class ClientGoneError(Exception):
    """Nobody waits for this answer any more."""


class Answer:
    """What comes of the requests made for one HTTP request, one a choice.

    Attributes:
        first_id: Request id of the first choice; the others follow.
        open: Choices that have not ended.

    Args:
        first_id: See above.
        choices: How many there are.
    """

    def __init__(self, first_id: int, choices: int) -> None:
        self.first_id = first_id
        self.open = set(range(choices))
        self._pieces: list[Piece] = []
        self._waiter: asyncio.Future[None] | None = None
        self._gone = False

    async def pieces(self) -> list[Piece]:
        """New pieces, at least one, in order.

        Raises:
            ClientGoneError: The client has disconnected.
        """
        if not self._pieces and not self._gone:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter
        if self._gone:
            raise ClientGoneError
        pieces, self._pieces = self._pieces, []
        return pieces

    def put(self, piece: Piece) -> None:
        """A piece came."""
        self._pieces.append(piece)
        if piece.ended is not None:
            self.open.discard(piece.request_id - self.first_id)
        self._wake()

    def cut(self) -> None:
        """The client has disconnected."""
        self._gone = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class Frontend:
    """Sends requests and hands answers out.

    Attributes:
        stopped: Set when the launcher said so.

    Args:
        place: The API server's.
    """

    def __init__(self, place: Place) -> None:
        config = place.config
        self._inbox = Inbox(place.path, API, ToFrontend)
        self._outbox = Outbox(place.path)
        self._tokenizers = [TOKENIZER.format(index) for index in range(config.tokenizers)]
        self._most = config.scheduler.max_running + config.max_queued
        self._ids = API_REQUEST_IDS
        self._answers: dict[int, Answer] = {}  # by request id, of those that have not ended
        self._pings = count()
        self._pongs: dict[int, asyncio.Future[Gauges]] = {}
        watched = [name for name in config.processes if name != API]
        self._vigil = Vigil(watched, config.stall_s, time.monotonic())
        self._in_step: Gauges | None = None  # where rank 0 runs a step: the scheduler's state when it was planned
        self.stopped = asyncio.Event()

    def listen(self) -> None:
        """Have the running event loop take in what comes."""
        asyncio.get_running_loop().add_reader(self._inbox.fd, self._receive)
        self._receive()

    def open(self, choices: int) -> Answer:
        """A place for the answer to so many requests; :meth:`close` it in the end.

        Raises:
            ApiError: The queue is full, or is too short for so many.
        """
        if choices > self._most:
            raise ApiError(
                400, f"{choices} choices are asked for, the server takes {self._most} at once: ask for fewer"
            )
        if len(self._answers) + choices > self._most:
            raise ApiError(
                429,
                f"{len(self._answers)} requests are being served or queued, the server takes {self._most}: "
                "try again later",
                code="queue_full",
                headers={"Retry-After": "1"},
            )
        answer = Answer(self._ids, choices)
        for request_id in range(self._ids, self._ids + choices):
            self._answers[request_id] = answer
        self._ids += choices
        return answer

    def send(self, request: Request) -> None:
        """Send a request on its way."""
        self._outbox.send(self._tokenizer(request.request_id), request)

    def close(self, answer: Answer) -> None:
        """The answer is complete, or nobody wants it."""
        for choice in sorted(answer.open):
            request_id = answer.first_id + choice
            self._outbox.send(self._tokenizer(request_id), Abort(request_id))
            del self._answers[request_id]

    async def gauges(self, patience_s: float = 2.0) -> Gauges:
        """The scheduler's state, by a round trip through every process.

        Rank 0 answers between two steps. Where that takes long, though no process hangs, it is the state that the step
        was planned in.

        Args:
            patience_s: Seconds that the round trip has.

        Raises:
            ApiError: A process hangs, by the rule by which the launcher ends the server.
        """
        pings = {next(self._pings): tokenizer for tokenizer in self._tokenizers}
        pongs: list[asyncio.Future[Gauges]] = [asyncio.get_running_loop().create_future() for _ in pings]
        self._pongs.update(zip(pings, pongs, strict=True))
        for number, tokenizer in pings.items():
            self._outbox.send(tokenizer, Ping(API, number))
        try:
            while (await asyncio.wait(pongs, timeout=patience_s))[1]:
                self._receive()  # signs that came while this process was busy
                hang = self._vigil.hang(time.monotonic())
                if hang is not None:
                    raise ApiError(503, f"{', '.join(hang.names)}: {hang.why}", code="stalled")
                if self._in_step is not None:
                    return self._in_step
            return pongs[-1].result()
        finally:
            for number in pings:
                del self._pongs[number]

    def shut(self) -> None:
        """Close inbox and outbox."""
        asyncio.get_running_loop().remove_reader(self._inbox.fd)
        self._inbox.close()
        self._outbox.close()

    def _tokenizer(self, request_id: int) -> str:
        # An abort takes its request's way.
        return self._tokenizers[request_id % len(self._tokenizers)]

    def _put(self, piece: Piece) -> None:
        answer = self._answers.get(piece.request_id)
        if answer is not None:
            answer.put(piece)
            if piece.ended is not None:  # however slowly its client reads, others may come
                del self._answers[piece.request_id]

    def _receive(self) -> None:
        for message in self._inbox.take():
            if isinstance(message, Output):
                for piece in message.pieces:
                    self._put(piece)
            elif isinstance(message, Alive):
                self._vigil.heard(message, time.monotonic())
                if message.name == WORKER.format(0):
                    self._in_step = message.gauges
            elif isinstance(message, Ping):
                pong = self._pongs.get(message.number)
                if pong is not None and not pong.done() and message.gauges is not None:
                    pong.set_result(message.gauges)
            elif isinstance(message, Stop):
                self.stopped.set()

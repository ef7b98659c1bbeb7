"""The detokenizer process: tokens become text, and stop strings are found."""

from __future__ import annotations

import logging
import time
from array import array

import msgspec

from runtime.messages import (
    WORKER,
    Abort,
    Ended,
    Logprobs,
    Opening,
    Output,
    Piece,
    Ping,
    Sampled,
    Stop,
    ToDetokenizer,
    TokenLogprobs,
    TokenText,
    ids_of,
)
from runtime.server.config import Place
from runtime.server.mail import Inbox, Outbox
from runtime.server.stream import StopStrings, TextStream
from runtime.server.text import TextTokenizer, load_tokenizer

logger = logging.getLogger(__name__)


class _Answer:
    """An output on its way out."""

    __slots__ = ("_min_tokens", "frontend", "prompt_tokens", "stops", "stream", "tokens")

    def __init__(self, opening: Opening, tokenizer: TextTokenizer) -> None:
        self.frontend = opening.frontend
        self.prompt_tokens = opening.prompt_tokens
        self.tokens = 0
        self.stops = StopStrings(opening.stop)
        self._min_tokens = opening.min_tokens
        self.stream = TextStream(tokenizer.decode, ids_of(opening.tail).tolist()) if opening.text else None

    def text(self, token: int, is_end: bool) -> str:
        """New text by one more token, which is shown unless it only says that the output ends."""
        if self.stream is None or is_end:
            return ""
        return self._shown(self.stream.push([token]))

    def stopped(self) -> bool:
        """Whether a stop string was found."""
        return self.stops.found

    def rest(self) -> str:
        """What was held back."""
        if self.stream is None:
            return ""
        return self._shown(self.stream.finish()) + self.stops.finish()

    def _shown(self, text: str) -> str:
        return self.stops.push(text, look=self.tokens > self._min_tokens)


class DetokenizerProcess:
    """The detokenizer.

    Args:
        place: Its name and its server.
    """

    def __init__(self, place: Place) -> None:
        self._inbox = Inbox(place.path, place.name, ToDetokenizer)
        self._outbox = Outbox(place.path)
        self._detokenizer = Detokenizer(load_tokenizer(place.config.tokenizer))

    def run(self) -> None:
        """Serve until told to stop."""
        stopping = False
        # The launcher's stop may be read before what the worker, which is gone by then, had sent.
        while messages := self._inbox.take() if stopping else self._inbox.wait():
            for message in messages:
                stopping = stopping or isinstance(message, Stop)
                try:
                    self._take(message)
                except ValueError as error:  # lengths that do not agree: no worker of ours sends that
                    logger.warning("dropped a %s: %s", type(message).__name__, error)
        self._inbox.close()
        self._outbox.close()

    def _take(self, message: Sampled | Opening | Ping | Stop) -> None:
        if isinstance(message, Sampled):
            outputs, stopped = self._detokenizer.pieces(message)
            for request_id in stopped:
                self._outbox.send(WORKER.format(0), Abort(request_id))
            for frontend, pieces in outputs.items():
                self._outbox.send(frontend, Output(pieces))
        elif isinstance(message, Opening):
            self._detokenizer.open(message)
        elif isinstance(message, Ping):
            self._outbox.send(message.frontend, message)


class Detokenizer:
    """Knows the outputs under way.

    Args:
        tokenizer: Of the model.
    """

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self._tokenizer = tokenizer
        self._answers: dict[int, _Answer] = {}
        self._token_texts: dict[int, tuple[str, bytes]] = {}

    def open(self, opening: Opening) -> None:
        """A request's tokens will come."""
        self._answers[opening.request_id] = _Answer(opening, self._tokenizer)

    def pieces(self, sampled: Sampled) -> tuple[dict[str, list[Piece]], list[int]]:
        """News by a step's tokens.

        Returns:
            The news of each frontend, and the request ids of those that a stop string just ended.
        """
        outputs: dict[str, list[Piece]] = {}
        stopped: list[int] = []
        ended = dict(sampled.ended)
        request_ids = array("q", sampled.request_ids)
        logprobs = sampled.logprobs or [None] * len(request_ids)
        for request_id, token, logprob in zip(request_ids, array("i", sampled.tokens), logprobs, strict=True):
            answer = self._answers.get(request_id)
            if answer is None or answer.stopped():
                continue
            answer.tokens += 1
            end = ended.get(request_id)
            is_end = end is not None and end.reason == "stop" and token in self._tokenizer.eos_ids
            text = answer.text(token, is_end)
            if answer.stopped() and end is None:
                stopped.append(request_id)
            likeliest = [] if logprob is None else [self._logprobs(token, logprob)]
            piece = Piece(request_id, text, token.to_bytes(4, "little"), likeliest, None, answer.prompt_tokens)
            outputs.setdefault(answer.frontend, []).append(piece)
        for request_id, end in sampled.ended:
            answer = self._answers.pop(request_id, None)
            if answer is not None:
                piece = self._last(request_id, answer, end)
                outputs.setdefault(answer.frontend, []).append(piece)
        return outputs, stopped

    def _last(self, request_id: int, answer: _Answer, ended: Ended) -> Piece:
        rest = answer.rest()
        now = time.monotonic()
        if answer.stopped():
            # Tokens that were sampled before the worker heard of it are not the client's.
            ended = msgspec.structs.replace(
                ended, reason="stop", error=None, output_tokens=answer.tokens, detokenized_s=now
            )
        else:
            ended = msgspec.structs.replace(ended, detokenized_s=now)
        return Piece(request_id, rest, b"", [], ended)

    def _logprobs(self, token: int, logprobs: Logprobs) -> TokenLogprobs:
        top = zip(logprobs.top_ids, logprobs.top_logprobs, strict=True)
        return TokenLogprobs(
            self._token_text(token, logprobs.logprob),
            [self._token_text(likely, logprob) for likely, logprob in top],
        )

    def _token_text(self, token: int, logprob: float) -> TokenText:
        known = self._token_texts.get(token)
        if known is None:
            known = self._token_texts[token] = self._tokenizer.token_text(token)
        return TokenText(*known, logprob)

"""The tokenizer process: prompts become token ids, away from the streams that a long prompt would stall."""

from __future__ import annotations

import logging
import time

import numpy as np

from runtime.messages import (
    WORKER,
    Abort,
    Ended,
    Opening,
    Output,
    Piece,
    Ping,
    Refused,
    Request,
    Stop,
    TextPrompt,
    TokenIds,
    Tokenized,
    TokenPrompt,
    ToTokenizer,
    ids_of,
)
from runtime.server.config import Place
from runtime.server.mail import Inbox, Outbox
from runtime.server.text import TextTokenizer, load_tokenizer

logger = logging.getLogger(__name__)

_TAIL = 6  # tokens of the prompt that the text of the first output token may depend on
NEVER = float("nan")


def refusal(request_id: int, error: str, *, received_s: float = NEVER, tokenized_s: float = NEVER) -> Output:
    """Tells a frontend that its request never reached the scheduler."""
    ended = Ended("error", error, 0, 0, 0, 0, 0, 0, 0.0, received_s, tokenized_s, *[NEVER] * 4)
    return Output([Piece(request_id, "", b"", [], ended)])


class TokenizerProcess:
    """One of the tokenizers.

    Args:
        place: Its name and its server.
    """

    def __init__(self, place: Place) -> None:
        self._inbox = Inbox(place.path, place.name, ToTokenizer)
        self._outbox = Outbox(place.path)
        self._tokenizer = load_tokenizer(place.config.tokenizer)
        self._vocab_size = place.config.vocab_size
        self._context = place.config.scheduler.max_context

    def run(self) -> None:
        """Serve until told to stop."""
        worker = WORKER.format(0)
        while True:
            for message in self._inbox.wait():
                if isinstance(message, Request):
                    self._tokenize(message)
                elif isinstance(message, Abort | Ping):
                    self._outbox.send(worker, message)
                elif isinstance(message, Stop):
                    self._inbox.close()
                    self._outbox.close()
                    return

    def _tokenize(self, request: Request) -> None:
        try:
            tokenized = _tokenized(request, self._tokenizer, self._vocab_size, self._context)
        except Exception as error:  # one prompt, however odd, must not end the others
            if not isinstance(error, ValueError):
                logger.exception("request %d cannot be tokenized", request.request_id)
            refused = refusal(request.request_id, str(error), received_s=request.received_s)
            self._outbox.send(request.frontend, refused)
            self._outbox.send(WORKER.format(0), Refused(request.request_id))
        else:
            self._outbox.send(WORKER.format(0), tokenized)


def _tokenized(request: Request, tokenizer: TextTokenizer, vocab_size: int, context: int) -> Tokenized:
    prompt = request.prompt
    if isinstance(prompt, TokenPrompt):
        ids = ids_of(prompt.ids)
    elif isinstance(prompt, TextPrompt):
        ids = np.asarray(tokenizer.encode(prompt.text, context), np.int32)
    else:
        ids = np.asarray(tokenizer.encode_chat(prompt.turns, prompt.options, context), np.int32)
    # Of text too: a tokenizer may know special tokens that the model has no embedding of.
    _check(ids, vocab_size, "prompt")
    if request.foretold is not None:
        _check(ids_of(request.foretold), vocab_size, "foretold")
    if any(not stop for stop in request.stop):
        raise ValueError("stop: an empty string ends nothing")
    biased = max(request.params.logit_bias, default=0)
    if biased >= vocab_size:
        raise ValueError(_outside("logit_bias", biased, vocab_size))
    tail = ids[-_TAIL:].tobytes()
    opening = Opening(
        request.request_id,
        request.frontend,
        tail,
        request.stop,
        request.text,
        len(ids),
        request.params.min_tokens,
    )
    return Tokenized(
        opening,
        ids.tobytes(),
        request.max_tokens,
        request.params,
        request.ignore_eos,
        request.foretold,
        request.priority,
        request.deadline_s,
        request.session_id,
        request.client_id,
        request.received_s,
        time.monotonic(),
    )


def _check(ids: TokenIds, vocab_size: int, field: str) -> None:
    if len(ids) and (ids.min() < 0 or ids.max() >= vocab_size):
        wrong = next(token for token in ids.tolist() if not 0 <= token < vocab_size)
        raise ValueError(_outside(field, wrong, vocab_size))


def _outside(field: str, token: int, vocab_size: int) -> str:
    return f"{field}: token id {token} is not below the vocabulary of {vocab_size}"

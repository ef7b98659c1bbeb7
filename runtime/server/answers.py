"""Answers as they go over the wire: JSON in one piece, or server-sent events, written by hand as they are many."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence as Sequences
from typing import Any, ClassVar, Protocol

from runtime.messages import Ended, Piece, TokenLogprobs, TokenText
from runtime.server.errors import ApiError, encoded

DONE = b"data: [DONE]\n\n"
_MOMENTS = (
    "received_s",
    "tokenized_s",
    "queued_s",
    "scheduled_s",
    "first_token_s",
    "last_token_s",
    "detokenized_s",
)
_COUNTS = ("chunks", "preemptions", "recomputed_tokens", "preempted_s")


def error_event(error: ApiError) -> bytes:
    """An error that comes when the stream has begun."""
    return b"data: " + error.body + b"\n\n"


def refusal_of(request_id: int, ended: Ended, prompt: int | None = None) -> ApiError | None:
    """The error that ended a request, if one did; it names the prompt, where that is one of several."""
    if ended.error is None and ended.reason in ("stop", "length"):
        return None
    if ended.error is None:
        return ApiError(500, "the request was aborted", code="aborted")
    message = ended.error.removeprefix(f"request {request_id}: ")
    code = "context_length_exceeded" if "exceed the context" in message else "invalid_request"
    return ApiError(400, message if prompt is None else f"prompt[{prompt}]: {message}", code=code)


def usage(ends: Sequences[Ended], choices_a_prompt: int) -> dict[str, Any]:
    """OpenAI's usage: a prompt counts once, however many choices it has."""
    prompts = ends[::choices_a_prompt]
    prompt_tokens = sum(ended.prompt_tokens for ended in prompts)
    completion_tokens = sum(ended.output_tokens for ended in ends)
    cached_tokens = sum(ended.cached_tokens for ended in prompts)
    return {**_counted(prompt_tokens, completion_tokens), "prompt_tokens_details": {"cached_tokens": cached_tokens}}


def _counted(prompt_tokens: int, completion_tokens: int) -> dict[str, Any]:
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def moments(ended: Ended) -> dict[str, float]:
    """The eight moments of a request, seconds on the server's monotonic clock; the last of them is now."""
    return {**{name: getattr(ended, name) for name in _MOMENTS}, "sent_back_s": time.monotonic()}


def counts(ended: Ended) -> dict[str, float]:
    """What was counted for a request and is not in its usage."""
    return {name: getattr(ended, name) for name in _COUNTS}


class Shape(Protocol):
    """How one endpoint shapes an answer."""

    complete_object: ClassVar[str]
    chunk_object: ClassVar[str]
    id_prefix: ClassVar[str]

    def choice(self, index: int, pieces: Sequences[Piece], reason: str) -> dict[str, Any]:
        """A choice of an answer in one piece."""

    def first(self) -> bytes | None:
        """JSON of what a choice's first chunk holds, where it is one of its own."""

    def delta(self, piece: Piece, offset: int) -> bytes:
        """JSON of what a choice's chunk holds beside its index: starts and ends without braces.

        Args:
            piece: What is new.
            offset: Characters of the choice's tokens before it; they are counted where log-probabilities are asked for.
        """


class ChatShape:
    """``/v1/chat/completions``."""

    complete_object: ClassVar[str] = "chat.completion"
    chunk_object: ClassVar[str] = "chat.completion.chunk"
    id_prefix: ClassVar[str] = "chatcmpl-"

    def choice(self, index: int, pieces: Sequences[Piece], reason: str) -> dict[str, Any]:
        """See :class:`Shape`."""
        logprobs = [entry for piece in pieces for entry in piece.logprobs]
        return {
            "index": index,
            "message": {
                "role": "assistant",
                "content": "".join(piece.text for piece in pieces),
                "refusal": None,
            },
            "logprobs": _chat_logprobs(logprobs) if logprobs else None,
            "finish_reason": reason,
        }

    def first(self) -> bytes | None:
        """See :class:`Shape`."""
        return b'"delta":{"role":"assistant","content":""},"logprobs":null'

    def delta(self, piece: Piece, offset: int) -> bytes:
        """See :class:`Shape`."""
        del offset
        logprobs = encoded(_chat_logprobs(piece.logprobs)) if piece.logprobs else b"null"
        if piece.ended is not None and not piece.text:
            return b'"delta":{},"logprobs":' + logprobs
        return b'"delta":{"content":' + encoded(piece.text) + b'},"logprobs":' + logprobs


class CompletionShape:
    """``/v1/completions``."""

    complete_object: ClassVar[str] = "text_completion"
    chunk_object: ClassVar[str] = "text_completion"
    id_prefix: ClassVar[str] = "cmpl-"

    def choice(self, index: int, pieces: Sequences[Piece], reason: str) -> dict[str, Any]:
        """See :class:`Shape`."""
        logprobs = [entry for piece in pieces for entry in piece.logprobs]
        return {
            "index": index,
            "text": "".join(piece.text for piece in pieces),
            "logprobs": _completion_logprobs(logprobs, 0) if logprobs else None,
            "finish_reason": reason,
        }

    def first(self) -> bytes | None:
        """See :class:`Shape`."""
        return None

    def delta(self, piece: Piece, offset: int) -> bytes:
        """See :class:`Shape`."""
        logprobs = b"null"
        if piece.logprobs:
            logprobs = encoded(_completion_logprobs(piece.logprobs, offset))
        return b'"text":' + encoded(piece.text) + b',"logprobs":' + logprobs


class Chunks:
    """Server-sent events of one answer.

    Args:
        shape: Of the endpoint.
        answer_id: The answer's.
        model: Its name.
        created: Unix seconds.
        include_usage: Whether usage comes in a chunk of its own; else it comes with the last choice's end.
        continuous: Whether every chunk tells what its choice took so far.
    """

    def __init__(
        self, shape: Shape, answer_id: str, model: str, created: int, include_usage: bool, continuous: bool
    ) -> None:
        self._shape = shape
        self._continuous = continuous
        head = encoded({"id": answer_id, "object": shape.chunk_object, "created": created, "model": model})
        self._head = b"data: " + head[:-1] + b',"choices":['
        self._running = b'],"usage":null}\n\n' if include_usage else b"]}\n\n"
        self._offsets: dict[int, int] = {}  # of the choices that have begun
        self._tokens: Counter[int] = Counter()  # of each choice

    def chunk(self, index: int, piece: Piece) -> bytes:
        """A piece that is not the last."""
        offset = self._offsets.get(index)
        self._offsets[index] = (offset or 0) + sum([_characters(entry.token) for entry in piece.logprobs])
        first = self._shape.first() if offset is None else None
        opening = b"" if first is None else self._choice(index, first, self._so_far(index, piece))
        self._tokens[index] += len(piece.tokens) // 4
        return opening + self._choice(index, self._shape.delta(piece, offset or 0), self._so_far(index, piece))

    def end(self, index: int, piece: Piece, reason: str, extra: dict[str, Any]) -> bytes:
        """The last piece of a choice; ``extra`` goes beside the choices."""
        data = self._head + b'{"index":%d,' % index + self._shape.delta(piece, self._offsets.get(index, 0))
        data += b',"finish_reason":"' + reason.encode() + b'"}]'
        if extra:
            return data + b"," + encoded(extra)[1:] + b"\n\n"
        return data + self._running[1:]

    def usage(self, usage: dict[str, Any]) -> bytes:
        """The chunk of usage alone."""
        return self._head + b'],"usage":' + encoded(usage) + b"}\n\n"

    def _choice(self, index: int, content: bytes, running: bytes) -> bytes:
        return self._head + b'{"index":%d,%b,"finish_reason":null}' % (index, content) + running

    def _so_far(self, index: int, piece: Piece) -> bytes:
        if not self._continuous:
            return self._running
        prompt_tokens, tokens = piece.prompt_tokens, self._tokens[index]
        return b'],"usage":' + encoded(_counted(prompt_tokens, tokens)) + b"}\n\n"


def _chat_logprobs(entries: Sequences[TokenLogprobs]) -> dict[str, Any]:
    return {
        "content": [
            {**_chat_token(entry.token), "top_logprobs": [_chat_token(top) for top in entry.top]} for entry in entries
        ],
        "refusal": None,
    }


def _chat_token(token: TokenText) -> dict[str, Any]:
    return {"token": token.text, "logprob": token.logprob, "bytes": list(token.data)}


def _completion_logprobs(entries: Sequences[TokenLogprobs], offset: int) -> dict[str, Any]:
    offsets = []
    for entry in entries:
        offsets.append(offset)
        offset += _characters(entry.token)
    return {
        "tokens": [entry.token.text for entry in entries],
        "token_logprobs": [entry.token.logprob for entry in entries],
        "top_logprobs": [_by_text([*entry.top, entry.token]) for entry in entries],
        "text_offset": offsets,
    }


def _by_text(tokens: Sequences[TokenText]) -> dict[str, float]:
    """Log-probabilities by text; of tokens with one text, the likeliest's."""
    found: dict[str, float] = {}
    for token in tokens:
        found.setdefault(token.text, token.logprob)
    return found


def _characters(token: TokenText) -> int:
    """Characters that begin in a token: its bytes but for those that continue one."""
    return sum([byte & 0xC0 != 0x80 for byte in token.data])

"""Answers on the wire: a stream says what the whole one says."""

from __future__ import annotations

import json
from typing import Any

import pytest

pytest.importorskip("msgspec")
pytest.importorskip("tokenizers")

from runtime.messages import Ended, Piece, TokenLogprobs, TokenText, id_bytes
from runtime.server.answers import Chunks, CompletionShape
from runtime.server.text import byte_level_tokenizer

TOKENIZER = byte_level_tokenizer()
TEXT = "aé€🙂b"
ENDED = Ended("length", None, 3, len(TEXT.encode()), 0, 1, 0, 0, 0.0, *[float("nan")] * 7)


def token_text(token: int, logprob: float) -> TokenText:
    return TokenText(*TOKENIZER.token_text(token), logprob)


def pieces(likeliest: list[int]) -> list[Piece]:
    """A byte a token, each with the same likeliest tokens; text comes with the last byte of a character."""
    found = []
    for character in TEXT:
        *begun, last = character.encode()
        for token, text in [*[(byte, "") for byte in begun], (last, character)]:
            top = [token_text(likely, -0.1 * rank) for rank, likely in enumerate(likeliest)]
            logprobs = [TokenLogprobs(token_text(token, -2.0), top)]
            found.append(Piece(0, text, id_bytes([token]), logprobs, None, 3))
    return found


def streamed(likeliest: list[int], continuous: bool = False) -> list[dict[str, Any]]:
    chunks = Chunks(CompletionShape(), "cmpl-0", "tiny", 0, include_usage=continuous, continuous=continuous)
    events = b"".join(chunks.chunk(0, piece) for piece in pieces(likeliest))
    return [json.loads(event.removeprefix(b"data: ")) for event in events.split(b"\n\n") if event]


def test_offsets_count_characters_whole_or_streamed() -> None:
    whole = CompletionShape().choice(0, pieces([]), "length")["logprobs"]
    assert whole["text_offset"] == [0, 1, 2, 2, 3, 3, 3, 4, 4, 4, 4], (
        "a part of a character stands behind its beginning"
    )
    offsets = [chunk["choices"][0]["logprobs"]["text_offset"] for chunk in streamed([])]
    assert [offset for part in offsets for offset in part] == whole["text_offset"]


def test_the_token_itself_is_among_the_likeliest_and_the_likelier_of_two_equal_texts_counts() -> None:
    halves = list("é".encode())  # both are U+FFFD as text
    whole = CompletionShape().choice(0, pieces([ord("x"), *halves]), "length")["logprobs"]
    assert whole["top_logprobs"][0] == {"x": 0.0, "\ufffd": -0.1, "a": -2.0}


def test_every_chunk_tells_the_usage_so_far_where_asked_for() -> None:
    usage = [chunk["usage"] for chunk in streamed([], continuous=True)]
    assert [told["completion_tokens"] for told in usage] == list(range(1, 12))
    assert {told["prompt_tokens"] for told in usage} == {3}
    assert all("usage" not in chunk for chunk in streamed([]))

"""Messages between processes: they arrive as they were sent, and what is no message is dropped."""

from __future__ import annotations

import contextlib
import logging
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

msgspec = pytest.importorskip("msgspec")
zmq = pytest.importorskip("zmq")

from runtime.engine.params import SamplingParams  # noqa: E402
from runtime.messages import (  # noqa: E402
    Abort,
    Alive,
    ChatPrompt,
    ChatTurn,
    Decision,
    Ended,
    Failed,
    Gather,
    Gathering,
    Gauges,
    Logprobs,
    Message,
    Opening,
    Output,
    Piece,
    Ping,
    Ready,
    Request,
    Sampled,
    StepRecord,
    Stop,
    TextPrompt,
    ToDetokenizer,
    ToFrontend,
    Tokenized,
    TokenLogprobs,
    TokenPrompt,
    TokenText,
    ToLauncher,
    ToRank,
    ToTokenizer,
    ToWorker,
    Turn,
    decoder,
    id_bytes,
    ids_of,
)
from runtime.server.mail import Inbox, Outbox  # noqa: E402

PARAMS = SamplingParams(temperature=0.5, top_k=3, seed=7, logprobs=2, logit_bias={5: -1.0})
OPENING = Opening(3, "api", id_bytes([1, 2]), ["stop"], True)
TOKENIZED = Tokenized(OPENING, id_bytes([1, 2]), 9, PARAMS, False, id_bytes([4]), 1, 2.5, -1, 4, 0.25, 0.5)
ENDED = Ended("stop", None, 5, 6, 4, 1, 2, 3, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
TOKEN = TokenText("é", "é".encode(), -0.5)
PIECE = Piece(3, "text ✓", id_bytes([8]), [TokenLogprobs(TOKEN, [TOKEN])], ENDED)
EACH: list[tuple[Any, Message]] = [
    (ToTokenizer, Request(1, "client", TextPrompt("hi"), None, PARAMS, ["x"], deadline_s=1.0, received_s=1.0)),
    (ToTokenizer, Request(1, "api", TokenPrompt(id_bytes([1])), 4, PARAMS, deadline_s=1.0, received_s=1.0)),
    (ToTokenizer, Request(1, "api", ChatPrompt([ChatTurn("user", "hi")]), 4, PARAMS, deadline_s=1.0, received_s=1.0)),
    (ToTokenizer, Abort(2)),
    (ToWorker, TOKENIZED),
    (ToWorker, Gather(5, "client")),
    (ToWorker, Stop()),
    (ToRank, Turn(4, 1.5, [TOKENIZED, Abort(3), Stop()])),
    (ToRank, Decision(4, -(2**62))),
    (ToDetokenizer, OPENING),
    (ToDetokenizer, Sampled(b"12345678", b"1234", [None, Logprobs(-1.0, [2], [-1.0])], [(3, ENDED)])),
    (ToDetokenizer, Ping("api", 1, Gauges(1, 2, 3, 4, 5))),
    (ToFrontend, Output([PIECE])),
    (ToFrontend, Gathering()),
    (ToLauncher, Ready("api", "http://127.0.0.1:1")),
    (ToLauncher, Failed("worker.0", "no")),
    (ToLauncher, Alive("worker.0", 7, 512, 0.5)),
    (StepRecord, StepRecord(1, 0.5, 0.1, 8, True, 0.0, 0.01, 0.4, 0.7, b"", b"", b"12345678", (1, 2, 3, 4, 5, 6))),
]


@pytest.mark.parametrize(("inbox", "message"), EACH, ids=lambda value: type(value).__name__)
def test_every_message_arrives_as_it_was_sent(inbox: Any, message: Message) -> None:
    assert decoder(inbox).decode(msgspec.msgpack.encode(message)) == message


def test_token_ids_travel_as_int32() -> None:
    ids = [0, 1, 2**31 - 1, -5]
    assert len(id_bytes(ids)) == 16
    assert ids_of(id_bytes(np.array(ids))).tolist() == ids
    with pytest.raises(ValueError, match="buffer size"):
        ids_of(b"12345")


@given(data=st.binary(max_size=200))
def test_bytes_that_are_no_message_raise_a_decode_error_and_nothing_else(data: bytes) -> None:
    for inbox in (ToTokenizer, ToWorker, ToRank, ToDetokenizer, ToFrontend, ToLauncher):
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
            assert isinstance(decoder(inbox).decode(data), Message)


@given(
    which=st.sampled_from(EACH),
    cut=st.integers(0, 300),
    flips=st.lists(st.tuples(st.integers(0, 300), st.binary(min_size=1, max_size=1)), max_size=3),
)
def test_mutilated_messages_are_messages_or_nothing(
    which: tuple[Any, Message], cut: int, flips: list[tuple[int, bytes]]
) -> None:
    data = bytearray(msgspec.msgpack.encode(which[1]))
    for position, byte in flips:
        data[position % len(data)] = byte[0]
    with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError):
        assert isinstance(decoder(which[0]).decode(bytes(data[: max(len(data) - cut, 0)])), Message)


def test_out_of_range_sampling_is_no_message() -> None:
    data = msgspec.msgpack.encode(["Request", 1, "api", ["TextPrompt", "x"], 1, {"temperature": math.inf}])
    with pytest.raises(msgspec.ValidationError, match="temperature"):
        decoder(ToTokenizer).decode(data)


def test_an_inbox_drops_what_is_no_message_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    inbox = Inbox(tmp_path, "worker.0", ToWorker)
    outbox = Outbox(tmp_path)
    outbox.send("worker.0", Abort(1))
    outbox.send("worker.0", Output([PIECE]))  # a message, but not one for a worker
    outbox.send("worker.0", Abort(2))
    received: list[Any] = []
    with caplog.at_level(logging.WARNING):
        while len(received) < 2:
            received += inbox.wait(5.0)
    assert received == [Abort(1), Abort(2)]
    assert "worker.0: dropped a message of" in caplog.text
    outbox.close()
    inbox.close()


@pytest.mark.parametrize("name", ["../escape", "", "a/b", "API", "tcp://1"])
def test_what_is_for_no_inbox_is_dropped(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    Outbox(tmp_path).send(name, Stop())
    assert "no inbox has such a name" in caplog.text
    assert list(tmp_path.iterdir()) == []

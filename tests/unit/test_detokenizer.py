"""From tokens to text: whole characters only, and nothing of a stop string."""

from __future__ import annotations

from array import array
from collections.abc import Sequence as Sequences
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("tokenizers")
pytest.importorskip("zmq")

from runtime.messages import Ended, Opening, Piece, Sampled, Stop, ToFrontend, id_bytes
from runtime.scheduler import SchedulerConfig
from runtime.server.config import EngineSpec, Place, ServerConfig
from runtime.server.detokenizer import Detokenizer, DetokenizerProcess
from runtime.server.mail import Inbox
from runtime.server.stream import StopStrings, TextStream
from runtime.server.text import byte_level_tokenizer

TOKENIZER = byte_level_tokenizer()
NEVER = float("nan")
SIZES = SchedulerConfig(pages=8, page_size=4, max_running=1, max_context=32)
CONFIG = ServerConfig(model="tiny", vocab_size=259, scheduler=SIZES, policy={}, engine=EngineSpec("none"))


def ended(reason: str = "length") -> Ended:
    return Ended(reason, None, 1, 9, 0, 1, 0, 0, 0.0, *[NEVER] * 6)


@given(text=st.text(max_size=60), tail=st.binary(max_size=6))
def test_what_is_shown_is_always_a_beginning_of_the_text(text: str, tail: bytes) -> None:
    stream = TextStream(TOKENIZER.decode, list(tail))
    shown = ""
    for byte in text.encode():
        shown += stream.push([byte])
        # Half a character is U+FFFD: none is shown, unless the tail's own bytes and the text's make an odd one.
        if not tail:
            assert text.startswith(shown)
    shown += stream.finish()
    if not tail:
        assert shown == text


@given(data=st.lists(st.integers(0, 258), max_size=80), sizes=st.lists(st.integers(1, 7), min_size=1, max_size=20))
def test_whatever_the_tokens_and_pieces_the_whole_is_their_text(data: list[int], sizes: list[int]) -> None:
    stream = TextStream(TOKENIZER.decode, [])
    shown, begin, turn = "", 0, 0
    while begin < len(data):
        size = sizes[turn % len(sizes)]
        shown += stream.push(data[begin : begin + size])
        begin, turn = begin + size, turn + 1
    assert shown + stream.finish() == TOKENIZER.decode(data)


def test_characters_of_four_bytes_come_whole_after_a_long_text() -> None:
    stream = TextStream(TOKENIZER.decode, [])
    pieces = [stream.push([byte]) for byte in ("x" * 100 + "🙂🙃é€" * 20).encode()]
    assert "".join(pieces) == "x" * 100 + "🙂🙃é€" * 20
    assert all("\ufffd" not in piece for piece in pieces)


@given(
    text=st.text(alphabet="ab", max_size=40),
    stops=st.lists(st.text(alphabet="ab", min_size=1, max_size=4), max_size=3),
    size=st.integers(1, 5),
)
def test_a_stop_string_ends_the_text_wherever_the_pieces_end(text: str, stops: list[str], size: int) -> None:
    stop_strings = StopStrings(stops)
    shown = ""
    for begin in range(0, len(text), size):
        shown += stop_strings.push(text[begin : begin + size])
    shown += stop_strings.finish()
    # The first stop string to be complete ends the text; of those complete in one piece, the one that begins first.
    ends = [text.find(stop) for stop in stops if stop in text]
    assert stop_strings.found == bool(ends)
    if not ends:
        assert shown == text
    else:
        assert text.startswith(shown)
        assert not any(stop in shown for stop in stops)
        assert any(text[len(shown) :].startswith(stop) for stop in stops)


def test_text_that_may_become_a_stop_string_waits() -> None:
    stops = StopStrings(["<end>"])
    assert [stops.push(piece) for piece in ("a<", "e", "n", "x<en", "d>b")] == ["a", "", "", "<enx", ""]
    assert stops.found


@given(
    pieces=st.lists(st.text(alphabet="abé", max_size=3), max_size=14),
    stops=st.lists(st.text(alphabet="abé", min_size=1, max_size=4), max_size=3),
    blind=st.integers(0, 14),
)
def test_no_stop_string_is_found_that_ends_before_it_is_looked_for(
    pieces: list[str], stops: list[str], blind: int
) -> None:
    stop_strings = StopStrings(stops)
    shown, text, cut = "", "", None
    for number, piece in enumerate(pieces):
        if cut is None and number >= blind:
            # Those that end in this piece, and of them the one that begins first.
            ends = range(len(text) + 1, len(text + piece) + 1)
            begins = [end - len(stop) for end in ends for stop in stops if (text + piece)[:end].endswith(stop)]
            cut = min(begins, default=None)
        text += piece
        shown += stop_strings.push(piece, look=number >= blind)
        assert text.startswith(shown)
    shown += stop_strings.finish()
    assert stop_strings.found == (cut is not None)
    assert shown == text[:cut]


def sampled(request_id: int, tokens: list[int], end: Ended | None = None) -> Sampled:
    ids = array("q", [request_id] * len(tokens)).tobytes()
    return Sampled(ids, id_bytes(tokens), [], [] if end is None else [(request_id, end)])


def text_of(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


def test_a_stop_string_aborts_the_request_once_and_later_tokens_are_nobodys() -> None:
    detokenizer = Detokenizer(TOKENIZER)
    detokenizer.open(Opening(1, "api", b"", ["lo"], True))
    outputs, stopped = detokenizer.pieces(sampled(1, list(b"Hello wor")))
    assert text_of(outputs["api"]) == "Hel"
    assert stopped == [1]
    outputs, stopped = detokenizer.pieces(sampled(1, list(b"ld")))
    assert (outputs, stopped) == ({}, [])
    outputs, stopped = detokenizer.pieces(sampled(1, [], ended("abort")))
    last = outputs["api"][-1].ended
    assert last is not None
    assert (last.reason, last.output_tokens, stopped) == ("stop", 5, [])
    assert detokenizer.pieces(sampled(1, [65]))[0] == {}  # it is forgotten


def test_a_stop_string_within_min_tokens_does_not_end_the_text() -> None:
    detokenizer = Detokenizer(TOKENIZER)
    detokenizer.open(Opening(1, "api", b"", ["ab"], True, min_tokens=4))
    outputs, stopped = detokenizer.pieces(sampled(1, list(b"abxa")))
    assert (text_of(outputs["api"]), stopped) == ("abx", [])
    outputs, stopped = detokenizer.pieces(sampled(1, list(b"b")))  # it ends beyond them, though it began within
    assert (text_of(outputs["api"]), stopped) == ("", [1])
    outputs, _ = detokenizer.pieces(sampled(1, [], ended("abort")))
    last = outputs["api"][-1].ended
    assert last is not None
    assert (last.reason, last.output_tokens) == ("stop", 5)


def test_a_stop_string_may_begin_or_end_within_the_bytes_of_several_tokens() -> None:
    detokenizer = Detokenizer(TOKENIZER)
    detokenizer.open(Opening(1, "api", b"", ["é🙂"], True))
    news = [detokenizer.pieces(sampled(1, [byte])) for byte in "né é🙂!".encode()]
    assert "".join([text_of(outputs.get("api", [])) for outputs, _ in news]) == "né "
    assert [stopped for _, stopped in news if stopped] == [[1]]


def test_the_token_that_ends_an_output_is_not_shown_but_half_a_stop_string_is() -> None:
    detokenizer = Detokenizer(TOKENIZER)
    detokenizer.open(Opening(1, "api", b"", ["!?"], True))
    end_of_turn = max(TOKENIZER.eos_ids)
    first, _ = detokenizer.pieces(sampled(1, list(b"Hi!")))
    last, stopped = detokenizer.pieces(sampled(1, [end_of_turn], ended("stop")))
    assert text_of(first["api"]) == "Hi"
    assert text_of(last["api"]) == "!"
    assert stopped == []


def test_each_frontend_gets_its_own_and_only_text_that_it_wants() -> None:
    detokenizer = Detokenizer(TOKENIZER)
    detokenizer.open(Opening(1, "api", b"", [], True))
    detokenizer.open(Opening(2, "client", b"", [], False))
    message = Sampled(array("q", [1, 2]).tobytes(), id_bytes([65, 66]), [], [])
    outputs, _ = detokenizer.pieces(message)
    assert [piece.text for piece in outputs["api"]] == ["A"]
    assert [(piece.text, piece.tokens) for piece in outputs["client"]] == [("", id_bytes([66]))]


@given(
    st.lists(st.sampled_from([0x80, 0xBF, 0xC3, 0xE2, 0x82, 0xAC, 0xF0, 0x9F, 0x41, 0xFF]), min_size=70, max_size=300)
)
def test_bytes_that_are_no_text_are_shown_as_they_come(data: list[int]) -> None:
    stream = TextStream(TOKENIZER.decode, [])
    shown = "".join([stream.push([byte]) for byte in data])
    assert shown + stream.finish() == TOKENIZER.decode(data)


def test_the_work_for_a_token_does_not_grow_with_bytes_that_are_no_text() -> None:
    decoded: list[int] = []

    def decode(ids: Sequences[int]) -> str:
        decoded.append(len(ids))
        return TOKENIZER.decode(ids)

    stream = TextStream(decode, [])
    shown = "".join([stream.push([0x80]) for _ in range(1000)]) + stream.finish()
    assert shown == "\ufffd" * 1000
    assert max(decoded) < 100


class Fixed(Inbox):
    """An inbox that holds just this."""

    def __init__(self, *batches: list[Any]) -> None:
        self._batches = list(batches)

    def take(self) -> list[Any]:
        return self._batches.pop(0) if self._batches else []

    def wait(self, timeout_s: float | None = None) -> list[Any]:
        del timeout_s
        return self.take()

    def close(self) -> None:
        assert not self._batches


def test_what_the_worker_sent_before_the_end_is_told_though_the_end_is_read_first(tmp_path: Path) -> None:
    process = DetokenizerProcess(Place("detokenizer", str(tmp_path), CONFIG))
    client = Inbox(tmp_path, "client", ToFrontend)
    process._inbox.close()
    process._inbox = Fixed([Stop(), Opening(1, "client", b"", [], True)], [sampled(1, [65], ended())])
    process.run()
    (output,) = client.wait(5.0)
    assert text_of(output.pieces) == "A"
    assert output.pieces[-1].ended is not None
    client.close()

"""Requests without HTTP: what a replay sees of the server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

zmq = pytest.importorskip("zmq")

from runtime.engine.params import GREEDY, SamplingParams  # noqa: E402
from runtime.messages import (  # noqa: E402
    Abort,
    Ended,
    Gather,
    Piece,
    Ping,
    Request,
    Sampled,
    TextPrompt,
    TokenPrompt,
    Turn,
    id_bytes,
    ids_of,
)
from runtime.scheduler import SchedulerConfig  # noqa: E402
from runtime.server.client import Client, StepReader  # noqa: E402
from runtime.server.launch import Server, ServerDiedError  # noqa: E402
from runtime.server.mail import Outbox  # noqa: E402


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    client = Client(server.directory, server.config)
    yield client
    client.close()


def asked(request_id: int, prompt: str | list[int] = "Once upon a time", tokens: int = 10, **more: Any) -> Request:
    content = TextPrompt(prompt) if isinstance(prompt, str) else TokenPrompt(id_bytes(prompt))
    return Request(request_id, "client", content, tokens, GREEDY, received_s=time.monotonic(), **more)


def answers(server: Server, client: Client, count: int) -> dict[int, tuple[list[int], str, Ended]]:
    """Tokens, text and end of so many requests, by request id."""
    pieces: dict[int, list[Piece]] = {}
    ended: dict[int, Ended] = {}
    while len(ended) < count:
        server.check()
        for piece in client.receive(5.0):
            assert piece.request_id not in ended, "a request ends once, after its last token"
            pieces.setdefault(piece.request_id, []).append(piece)
            if piece.ended is not None:
                ended[piece.request_id] = piece.ended
    return {
        request_id: (
            [token for piece in mine for token in ids_of(piece.tokens).tolist()],
            "".join(piece.text for piece in mine),
            ended[request_id],
        )
        for request_id, mine in pieces.items()
    }


def test_counts_and_moments_come_with_the_end(server: Server, client: Client) -> None:
    client.send(asked(1))
    tokens, text, ended = answers(server, client, 1)[1]
    assert len(tokens) == len(text) == ended.output_tokens == 10
    assert (ended.reason, ended.prompt_tokens, ended.chunks, ended.preemptions) == ("length", 16, 1, 0)
    moments = [
        ended.received_s,
        ended.tokenized_s,
        ended.queued_s,
        ended.scheduled_s,
        ended.first_token_s,
        ended.last_token_s,
        ended.detokenized_s,
        time.monotonic(),
    ]
    assert moments == sorted(moments)


def test_foretold_tokens_come_as_foretold(server: Server, client: Client) -> None:
    foretold = list(b"and they all lived happily")
    client.send(asked(2, foretold=id_bytes(foretold), tokens=100, text=False))
    client.send(asked(3, foretold=id_bytes(foretold), tokens=5, text=False))
    got = answers(server, client, 2)
    assert got[2][0] == foretold
    assert (got[2][1], got[2][2].reason) == ("", "stop")
    assert got[3][0] == foretold[:5]
    assert got[3][2].reason == "length"


def test_wrong_requests_end_with_an_error_and_the_server_goes_on(server: Server, client: Client) -> None:
    client.send(asked(10, ""))
    client.send(asked(11, tokens=-5))
    client.send(asked(12, "x" * 600))
    client.send(asked(13, [5, 4_000]))
    client.send(Request(14, "client", TokenPrompt(b"odd"), 5, GREEDY))
    client.send(asked(15, stop=[""]))
    client.send(asked(16))
    got = answers(server, client, 7)
    assert [got[number][2].reason for number in range(10, 17)] == ["error"] * 6 + ["length"]
    for number, names in [(10, "empty"), (11, "max_tokens=-5"), (12, "context of 512"), (13, "4000")]:
        assert names in str(got[number][2].error)


def test_text_may_not_become_tokens_that_the_model_lacks(start: Any) -> None:
    with start(http=False, vocab_size=200) as server:
        client = Client(server.directory, server.config)
        client.send(asked(1, "Hi<|im_end|>"))
        client.send(asked(2))
        got = answers(server, client, 2)
        assert got[1][2].error == "prompt: token id 258 is not below the vocabulary of 200"
        assert got[2][2].reason == "length"
        client.close()


def test_a_request_that_is_refused_is_not_waited_for(start: Any) -> None:
    with start(http=False) as server:
        client = Client(server.directory, server.config)
        client.gather(3)
        for request_id, tokens in [(1, 5), (1, 5), (2, 7)]:
            client.send(asked(request_id, tokens=tokens))
        ends = []
        while len(ends) < 3:
            server.check()
            pieces = client.receive(5.0)
            assert pieces, "the server waits for what never comes"
            ends += [(p.request_id, p.ended.reason) for p in pieces if p.ended is not None]
        assert sorted(ends) == [(1, "error"), (1, "length"), (2, "length")]
        client.close()


def test_a_request_that_a_tokenizer_refuses_is_not_waited_for(start: Any) -> None:
    with start(http=False, tokenizers=2) as server:
        client = Client(server.directory, server.config)
        client.gather(3)
        client.send(asked(1, tokens=5))
        client.send(asked(2, [5, 4_000]))
        client.send(asked(3, tokens=7))
        ended = {}
        while len(ended) < 3:
            server.check()
            pieces = client.receive(5.0)
            assert pieces, "the server waits for what never comes"
            ended |= {piece.request_id: piece.ended for piece in pieces if piece.ended is not None}
        assert [ended[number].reason for number in (1, 2, 3)] == ["length", "error", "length"]
        assert "4000" in ended[2].error
        client.close()


def test_an_id_in_use_is_refused_and_its_owner_goes_on(slow_server: Server) -> None:
    client = Client(slow_server.directory, slow_server.config)
    client.send(asked(1, tokens=20))
    client.send(asked(1, tokens=20))
    refused, complete = False, False
    while not (refused and complete):
        for piece in client.receive(5.0):
            if piece.ended is not None and piece.ended.reason == "error":
                assert "already being served" in str(piece.ended.error)
                refused = True
            elif piece.ended is not None:
                complete = piece.ended.output_tokens == 20
    client.close()


def test_aborts_at_any_moment_leave_no_kv_behind(slow_server: Server) -> None:
    client = Client(slow_server.directory, slow_server.config)
    for number in range(48):  # 16 run; prompts of 100 tokens take chunks of 64
        client.send(asked(number, f"{number:03}" + "x" * 97, tokens=30))
        if number % 4 == 0:
            client.abort(number)  # it has not been tokenized
    ended: dict[int, Ended] = {}
    to_abort = list(range(1, 48, 4))  # queued, in prefill, decoding, or ended already
    while len(ended) < 48:
        slow_server.check()
        for piece in client.receive(0.01):
            if piece.ended is not None:
                ended[piece.request_id] = piece.ended
        if to_abort:
            client.abort(to_abort.pop())
    assert all(end.reason == "abort" for number, end in ended.items() if number % 4 == 0)
    assert all(end.output_tokens == 30 for number, end in ended.items() if number % 4 > 1)
    gauges = client.gauges()
    assert (gauges.waiting, gauges.running) == (0, 0)
    assert gauges.pages_free + gauges.pages_cached == gauges.pages
    client.close()


def ended_of(server: Server, client: Client, request_id: int) -> Ended:
    """How a request ended."""
    while True:
        server.check()
        for piece in client.receive(5.0):
            if piece.request_id == request_id and piece.ended is not None:
                return piece.ended


@pytest.mark.parametrize("moment", ["received", "queued", "scheduled", "first_token", "last_token", "sent_back"])
def test_an_abort_at_each_moment_gives_everything_back(slow_server: Server, moment: str) -> None:
    client = Client(slow_server.directory, slow_server.config)
    if moment == "queued":  # the rows are taken
        for number in range(16):
            client.send(asked(number, tokens=480))
        while client.gauges().running < 16:
            pass
    client.send(asked(99, "x" * 300, tokens=200))  # five steps of prefill, and a second of decode
    if moment == "queued":
        while not client.gauges().waiting:
            pass
    elif moment == "scheduled":
        while not client.gauges().running:
            pass
    elif moment != "received":
        tokens, wanted = 0, 1 if moment == "first_token" else 200
        while tokens < wanted:
            tokens += sum(len(piece.tokens) // 4 for piece in client.receive(5.0))
    client.abort(99)
    if moment == "sent_back":
        client.abort(99)
        client.abort(100)  # never was
    elif moment != "last_token":
        ended = ended_of(slow_server, client, 99)
        assert ended.reason == "abort"
        assert ended.output_tokens < 200
        assert ended.output_tokens > 0 or moment != "first_token"
        # A step may be quicker than the abort that follows its request.
        unscheduled = {"received": (True, False), "queued": (True,)}.get(moment, (False,))
        assert np.isnan(ended.scheduled_s) in unscheduled
    for number in range(16):
        client.abort(number)
    while (gauges := client.gauges()).running or gauges.waiting:
        pass
    gauges = client.gauges()
    assert gauges.pages_free + gauges.pages_cached == gauges.pages
    client.close()


def test_an_abort_of_what_is_tokenized_and_not_yet_queued_never_runs_it(start: Any) -> None:
    with start(http=False) as server:
        client = Client(server.directory, server.config)
        client.gather(2)  # the worker holds what is tokenized until there are two
        client.send(asked(1, "x" * 100, tokens=50))
        client.gauges()  # goes behind the request: it is with the worker, tokenized
        client.abort(1)
        client.send(asked(2, tokens=5))
        got = answers(server, client, 2)
        tokens, _, ended = got[1]
        assert (tokens, ended.reason, ended.output_tokens) == ([], "abort", 0)
        assert not np.isnan(ended.tokenized_s)
        assert np.isnan(ended.scheduled_s)
        assert got[2][2].reason == "length"
        gauges = client.gauges()
        assert gauges.pages_free + gauges.pages_cached == gauges.pages
        client.close()


def test_an_abort_of_what_is_detokenized_comes_too_late_and_changes_nothing(slow_server: Server) -> None:
    client = Client(slow_server.directory, slow_server.config)
    client.send(asked(1, "x" * 100, tokens=50))
    while not client.gauges().running:
        pass
    while client.gauges().running:  # the answer comes through the detokenizer, behind the last token
        pass
    client.abort(1)
    gauges = client.gauges()  # the abort has gone all the way
    tokens, text, ended = answers(slow_server, client, 1)[1]
    assert (len(tokens), len(text), ended.reason) == (50, 50, "length")
    assert not np.isnan(ended.detokenized_s)
    assert client.receive(0.0) == []  # it ended once
    assert (gauges.waiting, gauges.running) == (0, 0)
    assert gauges.pages_free + gauges.pages_cached == gauges.pages
    client.close()


def test_ranks_and_reruns_decide_alike(start: Any) -> None:
    """All at once, with little memory: the same steps, and the same tokens, however many ranks and tokenizers."""
    runs = []
    sizes = SchedulerConfig(pages=40, page_size=4, max_running=8, max_context=128)
    for tp, tokenizers in [(1, 1), (2, 2)]:
        with start(http=False, tp=tp, tokenizers=tokenizers, scheduler=sizes, record_steps="steps") as server:
            client = Client(server.directory, server.config)
            reader = StepReader(server.directory, "steps")
            client.gather(60)
            for number in range(60):
                client.send(asked(number, f"{number % 7} " * (3 + number % 5), tokens=5 + number % 30))
            got = answers(server, client, 60)
            records = []
            while batch := reader.receive(0.3):
                records += batch
            steps = [(r.step, r.chunk_ids, r.chunk_tokens, r.decode_ids, r.snapshot) for r in records]
            assert [step[0] for step in steps] == list(range(len(steps)))
            counts = [(e.cached_tokens, e.preemptions, e.recomputed_tokens, e.chunks) for _, _, e in got.values()]
            runs.append((steps, sorted((n, tokens) for n, (tokens, _, _) in got.items()), counts))
            assert sum(preemptions for _, preemptions, _, _ in counts) > 0
            client.close()
            reader.close()
    assert runs[0] == runs[1]


def test_a_rank_out_of_step_is_named(start: Any) -> None:
    with start(http=False, tp=2, step_s=0.002) as server:
        client = Client(server.directory, server.config)
        outbox = Outbox(server.directory)
        client.send(asked(1, tokens=400))
        client.receive(2.0)
        # Rank 1 hears of a turn that rank 0 never had.
        outbox.send("worker.1", Turn(10_000, 0.0, []))
        with pytest.raises(ServerDiedError, match=r"worker\.1 (.|\n)*rank 1 is out of step"):
            server.wait()
        outbox.close()
        client.close()


def test_garbage_in_every_inbox_is_dropped(server: Server, client: Client) -> None:
    random = np.random.default_rng(0)
    context = zmq.Context.instance()
    names = ["api", "tokenizer.0", "tokenizer.1", "worker.0", "detokenizer", "client"]
    for name in names:
        socket = context.socket(zmq.PUSH)
        socket.connect(f"ipc://{server.directory / name}")
        for length in range(200):
            socket.send(random.bytes(length))
        for message in (b"", b"\x91\xa4Stop", b"\x92\xa5Abort\xc0", b"\x81\x01\x02", b"\xdd\xff\xff\xff\xff"):
            socket.send(b"\xc1" + message)
        socket.close(linger=1000)
    outbox = Outbox(server.directory)  # well formed, and nonsense
    outbox.send("tokenizer.0", Request(91, "../nobody", TextPrompt(""), 5, GREEDY))
    outbox.send("tokenizer.0", Request(92, "client", TextPrompt("x"), 2**62, SamplingParams(logit_bias={2**60: 1.0})))
    outbox.send("worker.0", Gather(0, "../nobody"))
    outbox.send("worker.0", Abort(-1))
    outbox.send("detokenizer", Sampled(b"12345678", b"", [], []))
    outbox.send("detokenizer", Sampled(b"123", b"1", [], []))
    outbox.send("detokenizer", Ping("../nobody", 1))
    outbox.close()
    client.send(asked(90))
    assert answers(server, client, 2)[90][2].reason == "length"

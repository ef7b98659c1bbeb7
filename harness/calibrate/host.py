"""What the host spends on a request and on a step, in the server's own classes."""

from __future__ import annotations

import tempfile
import time
from array import array
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from runtime.engine.engine import Engine
from runtime.engine.params import SamplingParams
from runtime.messages import (
    DETOKENIZER,
    TOKENIZER,
    WORKER,
    Opening,
    Output,
    Piece,
    Request,
    Sampled,
    StepRecord,
    Stop,
    ToDetokenizer,
    Tokenized,
    TokenPrompt,
    ToWorker,
)
from runtime.scheduler import Scheduler, loop
from runtime.server.client import Client
from runtime.server.config import EngineSpec, Place, ServerConfig
from runtime.server.detokenizer import DetokenizerProcess
from runtime.server.launch import Server
from runtime.server.leader import LeaderSide
from runtime.server.mail import Inbox, Outbox
from runtime.server.tokenizer import TokenizerProcess
from runtime.server.worker import sequence_of

_STEPS = "steps"
_CLIENT = "client"
_BETWEEN_S = 0.02  # two arrivals: processes are asleep by then
_HOPS = 4  # of a ping: client, tokenizer, worker, detokenizer, client
DECODES = 16  # steps timed at each batch

Samples = dict[tuple[str, int, int, bool], list[float]]
"""Seconds by stage, sequences and tokens, and whether a CUDA graph was replayed."""


@contextmanager
def _directory() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="servetwin-") as directory:
        yield Path(directory)


class _Drained:
    """An inbox for messages that nobody reads, so that they do not pile up."""

    def __init__(self, directory: Path, name: str, kind: Any) -> None:
        self._inbox = Inbox(directory, name, kind)

    def __enter__(self) -> Callable[[], list[Any]]:
        return self._inbox.take

    def __exit__(self, *_: object) -> None:
        self._inbox.close()


def _request(request_id: int, tokens: int, outputs: int, vocab_size: int) -> Request:
    ids = np.random.default_rng(request_id).integers(0, vocab_size, tokens).astype(np.int32)
    output = np.zeros(outputs, np.int32).tobytes()
    return Request(
        request_id,
        _CLIENT,
        TokenPrompt(ids.tobytes()),
        outputs,
        SamplingParams(temperature=0.0),
        ignore_eos=True,
        foretold=output,
        text=False,
        received_s=0.0,
    )


def receiving(config: ServerConfig, tokens: int, repeats: int) -> list[float]:
    """Seconds to send a request of so many prompt tokens as ids, straight to a tokenizer: the client's own."""
    requests = [_request(number, tokens, 1, config.vocab_size) for number in range(repeats)]
    with _directory() as directory, _Drained(directory, TOKENIZER.format(0), Request) as drain:
        client = Client(directory, config, _CLIENT)
        seconds = [_timed(lambda request=request: client.send(request)) for request in requests]  # type: ignore[misc]
        drain()
        client.close()
    return seconds


def tokenizing(config: ServerConfig, tokens: int, repeats: int) -> float:
    """Seconds of the tokenizer process for a request of so many prompt tokens, given as ids: a mean."""
    with _directory() as directory, _Drained(directory, WORKER.format(0), ToWorker) as drain:
        tokenizer = TokenizerProcess(Place(TOKENIZER.format(0), str(directory), config))
        seconds = _served(
            directory,
            TOKENIZER.format(0),
            tokenizer.run,
            [_request(number, tokens, 1, config.vocab_size) for number in range(repeats)],
        )
        drain()
    return seconds / repeats


def detokenizing(config: ServerConfig, tokens: int, repeats: int) -> float:
    """Seconds of the detokenizer process for a step's message of so many tokens, wanted as ids: a mean."""
    ids = array("q", range(tokens)).tobytes()
    openings = [Opening(request_id, _CLIENT, b"", [], False) for request_id in range(tokens)]
    messages = [Sampled(ids, array("i", [0] * tokens).tobytes(), [], []) for _ in range(repeats)]
    with _directory() as directory, _Drained(directory, _CLIENT, Output) as drain:
        detokenizer = DetokenizerProcess(Place(DETOKENIZER, str(directory), config))
        seconds = _served(directory, DETOKENIZER, detokenizer.run, [*openings, *messages])
        drain()
    return seconds / repeats


def sending(config: ServerConfig, tokens: int, repeats: int) -> float:
    """Seconds of a client without HTTP to take in a step's message of so many tokens: a mean."""
    pieces = [Piece(request_id, "", b"\0\0\0\0", [], None) for request_id in range(tokens)]
    with _directory() as directory:
        client, outbox = Client(directory, config, _CLIENT), Outbox(directory)
        for _ in range(repeats):
            outbox.send(_CLIENT, Output(pieces))
        time.sleep(0.05)  # until ZMQ's own thread has them there
        taken, begun_s = 0, time.perf_counter()
        while taken < repeats * tokens:
            taken += len(client.receive(1.0))
        seconds = time.perf_counter() - begun_s
        client.close()
        outbox.close()
    return seconds / repeats


def hopping(config: ServerConfig, repeats: int) -> list[float]:
    """Seconds of a message from one process to the next and its waking: a ping through all of them, shared out.

    Between two pings the processes sleep, as they do between two arrivals: one that has just run wakes much sooner.
    """
    engine = EngineSpec("runtime.engine.emulated.build", {"vocab_size": config.vocab_size})
    config = msgspec.structs.replace(config, engine=engine, tp=1, http=False, record_steps=None)
    with Server(config) as server:
        client = Client(server.directory, config, _CLIENT)
        seconds = []
        for _ in range(repeats + 5):
            time.sleep(_BETWEEN_S)
            seconds.append(_timed(client.gauges) / _HOPS)
        client.close()
    return seconds[5:]


def looping(
    config: ServerConfig,
    scheduler: Scheduler,
    engine: Engine[Any],
    batch: int,
    prompt: int,
    *,
    overlap: bool,
    seed: int,
) -> Samples:
    """The serving loop of rank 0 on requests that all come at once, timed stage by stage.

    Args:
        config: The server.
        scheduler: Idle; its table is the engine's.
        engine: Runs the steps.
        batch: Requests.
        prompt: Tokens of each prompt.
        overlap: Whether a step is launched before the one before it is committed.
        seed: Of the prompts: one that was there before would be found in the prefix cache.

    Returns:
        ``schedule`` and ``launch`` by sequences and tokens of the step, ``commit`` by its sampled sequences.
    """
    samples: Samples = {}
    config = msgspec.structs.replace(config, record_steps=_STEPS)
    with (
        _directory() as directory,
        _Drained(directory, DETOKENIZER, ToDetokenizer) as drain,
        _Drained(directory, _STEPS, StepRecord) as drain_records,
    ):
        inbox, outbox = Inbox(directory, WORKER.format(0), ToWorker), Outbox(directory)
        side = LeaderSide(inbox, outbox, config, scheduler, None)
        for number in range(batch):
            request_id = seed * 65_536 + number
            outbox.send(WORKER.format(0), _tokenized(request_id, prompt, config.vocab_size))
        outbox.send(WORKER.format(0), Stop())
        time.sleep(0.05)
        _drive(side, scheduler, engine, samples, overlap=overlap)
        drain()
        drain_records()
        inbox.close()
        outbox.close()
    return samples


def _drive(side: LeaderSide, scheduler: Scheduler, engine: Engine[Any], samples: Samples, *, overlap: bool) -> None:
    """The worker process's own loop, with a clock."""
    effects = loop.serve(scheduler, overlap=overlap)
    effect = next(effects)
    mark_s = collected_s = time.perf_counter()
    sampled = 0
    launched: deque[tuple[int, int, float]] = deque()
    while True:
        answer: Any = None
        if isinstance(effect, loop.Receive):
            if sampled:
                samples.setdefault(("commit", sampled, 0, False), []).append(time.perf_counter() - collected_s)
                sampled = 0
            now, messages = side.receive(effect.wait)
            answer = now, [_taken_in(message) for message in messages]
            mark_s = time.perf_counter()
        elif isinstance(effect, loop.Launch):
            side.launching(effect.batch)
            chunks, decodes = effect.batch.chunks, effect.batch.decodes
            tokens = sum(chunk.tokens for chunk in chunks) + len(decodes)
            sequences = len(chunks) + len(decodes)
            begun_s = time.perf_counter()
            samples.setdefault(("schedule", sequences, tokens, False), []).append(begun_s - mark_s)
            answer = engine.launch(effect.batch)
            launched.append((sequences, tokens, time.perf_counter() - begun_s))
        elif isinstance(effect, loop.Collect):
            result = engine.collect(effect.ticket)
            collected_s = time.perf_counter()
            sequences, tokens, launch_s = launched.popleft()
            graph = result.run is not None and result.run.graph
            samples.setdefault(("launch", sequences, tokens, graph), []).append(launch_s)
            side.collected(effect.batch, result)
            answer, sampled = result.tokens, len(effect.batch.sampled())
        elif isinstance(effect, loop.Deliver):
            side.deliver(effect.outputs)
            for sequence in effect.outputs.finished:
                engine.forget(sequence.request_id)
        try:
            effect = effects.send(answer)
        except StopIteration:
            return


def _taken_in(message: Any) -> loop.Message:
    return loop.Arrive(sequence_of(message, frozenset(), longest=0)) if isinstance(message, Tokenized) else loop.Stop()


def _tokenized(request_id: int, prompt: int, vocab_size: int) -> Tokenized:
    request = _request(request_id, prompt, DECODES, vocab_size)
    ids = request.prompt.ids if isinstance(request.prompt, TokenPrompt) else b""
    opening = Opening(request_id, _CLIENT, b"", [], False)
    foretold, params = request.foretold, request.params
    return Tokenized(opening, ids, DECODES, params, True, foretold, 0, float("nan"), -1, -1, 0.0, 0.0)


def _served(directory: Path, name: str, run: Callable[[], None], messages: list[Any]) -> float:
    """Seconds in which a process's own loop takes what lies in its inbox, up to a stop."""
    outbox = Outbox(directory)
    for message in [*messages, Stop()]:
        outbox.send(name, message)
    time.sleep(0.05)
    seconds = _timed(run)
    outbox.close()
    return seconds


def _timed(work: Callable[[], Any]) -> float:
    begun_s = time.perf_counter()
    work()
    return time.perf_counter() - begun_s

"""Every message between the server's processes: tagged msgspec structs, token ids as int32 bytes, never pickle.

A process reads one inbox, so it decodes the union of what may come there. What does not decode is not a message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from runtime.engine.params import SamplingParams

if TYPE_CHECKING:
    from collections.abc import Sequence as Sequences

TokenIds: TypeAlias = npt.NDArray[np.int32]
TOKENIZER = "tokenizer.{}"  # names of processes, which are the names of their inboxes
WORKER = "worker.{}"
DETOKENIZER = "detokenizer"
API = "api"
LAUNCHER = "launcher"
API_REQUEST_IDS = 1 << 48  # the API server numbers its requests from here: a replay's own ids stay below


class Message(msgspec.Struct, tag=True, array_like=True, gc=False):
    """What a process sends another."""


# The way in: client, API server, tokenizer, worker.


class ChatTurn(msgspec.Struct, frozen=True):
    """One message of a conversation, as chat templates want it."""

    role: str
    content: str


class TextPrompt(Message):
    """A prompt to be tokenized."""

    text: str


class TokenPrompt(Message):
    """A prompt that is int32 token ids already."""

    ids: bytes


class ChatPrompt(Message):
    """A conversation, to be rendered by the model's chat template and tokenized.

    Attributes:
        turns: Its messages.
        options: What else the template is told, such as Qwen3's ``enable_thinking``.
    """

    turns: list[ChatTurn]
    options: dict[str, bool | str] = {}


class Request(Message):
    """A frontend (the API server, or a client without HTTP) to a tokenizer: a request.

    Attributes:
        request_id: Unique among the requests in the server.
        frontend: Inbox of whom to answer.
        prompt: What the output goes on from.
        max_tokens: The most output tokens, or None for as many as context and KV memory have room for.
        params: How tokens are chosen.
        stop: Strings that end the output; they are not part of it.
        ignore_eos: Go on past end-of-sequence tokens.
        foretold: int32 ids of the output, where a replay knows it.
        text: Whether the frontend wants text, or token ids alone.
        priority: Larger is more urgent.
        deadline_s: When the last token is wanted, on the machine's monotonic clock, or NaN.
        session_id: Conversation, or -1.
        client_id: Tenant, or -1.
        received_s: When the frontend had it, on the machine's monotonic clock.
    """

    request_id: int
    frontend: str
    prompt: TextPrompt | TokenPrompt | ChatPrompt
    max_tokens: int | None
    params: SamplingParams
    stop: list[str] = []
    ignore_eos: bool = False
    foretold: bytes | None = None
    text: bool = True
    priority: int = 0
    deadline_s: float = float("nan")
    session_id: int = -1
    client_id: int = -1
    received_s: float = float("nan")


class Opening(Message):
    """Tokenizer to worker to detokenizer: what the detokenizer is to know of a request before its first token.

    Attributes:
        request_id: Of the request.
        frontend: Inbox of whom to answer.
        tail: int32 ids of the end of the prompt, that the text of the first token may depend on.
        stop: Strings that end the output.
        text: Whether text is wanted.
        prompt_tokens: Of the prompt.
        min_tokens: Output tokens whose text no stop string is looked for in.
    """

    request_id: int
    frontend: str
    tail: bytes
    stop: list[str]
    text: bool
    prompt_tokens: int = 0
    min_tokens: int = 0


class Tokenized(Message):
    """Tokenizer to worker, and rank 0 to the others: a request as the scheduler takes it. See :class:`Request`."""

    opening: Opening
    prompt: bytes
    max_tokens: int | None
    params: SamplingParams
    ignore_eos: bool
    foretold: bytes | None
    priority: int
    deadline_s: float
    session_id: int
    client_id: int
    received_s: float
    tokenized_s: float


class Abort(Message):
    """The client is gone, or a stop string was found. It takes the request's own way, and so never overtakes it."""

    request_id: int


class Refused(Message):
    """Tokenizer to rank 0: a request that got no further. Its frontend is told; whoever waits for it waits no more."""

    request_id: int


class Stop(Message):
    """The launcher to a process: end when what came before is done."""


class Gather(Message):
    """A client to rank 0: plan no step until so many more requests are in, then take them by ``received_s``.

    Answered by :class:`Gathering`. A replay that sends everything at once decides alike in every run by this.
    """

    requests: int
    frontend: str


class Gathering(Message):
    """Rank 0 to a client: no step is planned from now on until the requests are in."""


class Gauges(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The scheduler's state: sequences waiting and running; pages free, held by the cache alone, and in all."""

    waiting: int
    running: int
    pages_free: int
    pages_cached: int
    pages: int


class Ping(Message):
    """A frontend to a tokenizer, on to the worker, the detokenizer and back: shows that each of them is at work."""

    frontend: str
    number: int
    gauges: Gauges | None = None


# Among ranks.


class Turn(Message):
    """Rank 0 to the others: what its serving loop takes in, so that theirs takes in the same.

    Attributes:
        number: Turns of the loop before this one.
        now: Seconds, rank 0's clock.
        messages: Of this turn, in order.
    """

    number: int
    now: float
    messages: list[Tokenized | Abort | Stop]


class Decision(Message):
    """Rank 0 to the others: the batch that it launches.

    Attributes:
        number: Of the turn.
        checksum: Over all its decisions so far.
    """

    number: int
    checksum: int


# The way out: worker, detokenizer, API server, client.


class Ended(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """How a request ended, what was counted for it, and its moments on the machine's monotonic clock (NaN: never came).

    Attributes:
        reason: stop, length, abort or error.
        error: Why it was refused, or None.
        prompt_tokens: Of the prompt.
        output_tokens: Committed; up to a stop string, where one ended it.
        cached_tokens: Prompt tokens found in the prefix cache.
        chunks: Chunks the prompt was computed in.
        preemptions: Times it was preempted.
        recomputed_tokens: Tokens computed again after that.
        preempted_s: Seconds between a preemption and the next admission, summed.
        received_s: The frontend had it.
        tokenized_s: Its prompt was token ids.
        queued_s: The scheduler had it.
        scheduled_s: Its first step was launched.
        first_token_s: Its first token was committed.
        last_token_s: Its last.
        detokenized_s: Its text was complete.
    """

    reason: str
    error: str | None
    prompt_tokens: int
    output_tokens: int
    cached_tokens: int
    chunks: int
    preemptions: int
    recomputed_tokens: int
    preempted_s: float
    received_s: float
    tokenized_s: float
    queued_s: float
    scheduled_s: float
    first_token_s: float
    last_token_s: float
    detokenized_s: float = float("nan")


class Logprobs(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Log-probabilities at one output position: of the token, and of the likeliest ones."""

    logprob: float
    top_ids: list[int]
    top_logprobs: list[float]


class Sampled(Message):
    """Worker to detokenizer: the tokens of a committed step.

    Attributes:
        request_ids: int64, one a token.
        tokens: int32.
        logprobs: One a token, None where the request did not ask; empty where none did.
        ended: Request ids of those that ended, with how; each after its last token.
    """

    request_ids: bytes
    tokens: bytes
    logprobs: list[Logprobs | None]
    ended: list[tuple[int, Ended]]


class TokenText(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A token as text and bytes, with its log-probability."""

    text: str
    data: bytes
    logprob: float


class TokenLogprobs(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """An output token and the likeliest ones in its place."""

    token: TokenText
    top: list[TokenText]


class Piece(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What is new of one request.

    Attributes:
        request_id: Of the request.
        text: New text, whole characters; token ids may be ahead of it.
        tokens: int32 ids of the new tokens.
        logprobs: Of these tokens, where asked for.
        ended: How it ended, with the last piece.
        prompt_tokens: Of the prompt, with every piece that brings tokens.
    """

    request_id: int
    text: str
    tokens: bytes
    logprobs: list[TokenLogprobs]
    ended: Ended | None
    prompt_tokens: int = 0


class Output(Message):
    """Detokenizer (or a tokenizer that must refuse) to a frontend: news of its requests."""

    pieces: list[Piece]


class StepRecord(Message):
    """Rank 0 to whoever keeps the step table: one step, as METRICS' steps table wants it.

    Attributes:
        step: Its number.
        start_s: On the machine's monotonic clock.
        duration_s: Until its tokens were there.
        padded_sequences: Sequences that the engine ran, padding included.
        graph: Whether it was replayed as a CUDA graph.
        gpu_wait_s: Seconds the engine had nothing to run before it.
        cpu_schedule_s: Seconds the scheduler took to plan it.
        planned_s: When the serving loop received what it was planned with, on the machine's monotonic clock.
        collected_s: When its tokens were in the serving loop's hands.
        chunk_ids: int64 request ids of the prefill chunks.
        chunk_tokens: int32 tokens of each.
        decode_ids: int64 request ids of the sequences that decode.
        snapshot: Waiting, running, free, evictable and evicted pages, preempted: `runtime.scheduler.Snapshot`.
    """

    step: int
    start_s: float
    duration_s: float
    padded_sequences: int
    graph: bool
    gpu_wait_s: float
    cpu_schedule_s: float
    planned_s: float
    collected_s: float
    chunk_ids: bytes
    chunk_tokens: bytes
    decode_ids: bytes
    snapshot: tuple[int, int, int, int, int, int]


# From a process to the launcher; signs of life also to the API server.


class Ready(Message):
    """A process is at work; ``address`` is where an API server listens, ``pages`` are a worker's of KV memory."""

    name: str
    address: str = ""
    pages: int = 0


class Failed(Message):
    """A process cannot start, by the user's mistake or the machine's; ``error`` is one line for a person."""

    name: str
    error: str


class Alive(Message):
    """A process's sign of life, about once a second.

    Attributes:
        name: The process.
        step: A worker's last step launched; -1 before its first, and for the other processes.
        tokens: Of its steps in flight, 0 without one.
        waited_s: Since the last of them was launched or collected.
        gauges: The scheduler's state when it had planned the last of them, None without one.
    """

    name: str
    step: int = -1
    tokens: int = 0
    waited_s: float = 0.0
    gauges: Gauges | None = None


ToTokenizer: TypeAlias = Request | Abort | Ping | Stop
ToWorker: TypeAlias = Tokenized | Refused | Abort | Ping | Gather | Stop
ToRank: TypeAlias = Turn | Decision
ToDetokenizer: TypeAlias = Opening | Sampled | Ping | Stop
ToFrontend: TypeAlias = Output | Ping | Gathering | Stop | Alive
ToLauncher: TypeAlias = Ready | Failed | Alive


def decoder(kind: Any) -> msgspec.msgpack.Decoder[Any]:
    """Decodes the messages of one inbox, e.g. ``decoder(ToWorker)``; it raises ``msgspec.DecodeError``."""
    return msgspec.msgpack.Decoder(kind)


def id_bytes(ids: Sequences[int] | TokenIds) -> bytes:
    """Token ids as they travel: int32 in native order."""
    return np.asarray(ids, np.int32).tobytes()


def ids_of(data: bytes) -> TokenIds:
    """Token ids that travelled; read-only.

    Raises:
        ValueError: These are not whole int32 numbers.
    """
    return np.frombuffer(data, np.int32)

"""Any OpenAI-compatible server, over HTTP with server-sent events."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec

from harness.live.events import event_data
from harness.live.player import Finish, News, ServerGoneError, Transport
from harness.live.punctual_loop import punctual_loop
from harness.metrics.schema import FINISH_REASONS
from harness.workload import Workload
from runtime.open_files import allow_many_files
from traces.prompts import PromptMaker
from traces.schema import Trace

OWNER = "servetwin"  # of the models of a server of ours
_DONE = b"[DONE]"
_IDLE_S = 4.0  # less than servers keep a connection open (uvicorn: 5 s): one must not close as a request is sent
_MOST_ERROR = 300  # characters kept of what a server says went wrong


class _Choice(msgspec.Struct):
    text: str | None = None
    finish_reason: str | None = None


class _Details(msgspec.Struct):
    cached_tokens: int | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0
    prompt_tokens_details: _Details | None = None


class _Counts(msgspec.Struct):
    chunks: int
    preemptions: int
    recomputed_tokens: int
    preempted_s: float


class _Event(msgspec.Struct):
    """What of a streamed completion we read; servers add more."""

    id: str | None = None
    choices: list[_Choice] = []
    usage: _Usage | None = None
    moments: list[dict[str, float | None]] | None = None  # of our own server alone, as the next
    counts: list[_Counts] | None = None
    error: Any = None


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server and how it is asked.

    Attributes:
        url: Base, such as ``http://127.0.0.1:8000``.
        model: Name it serves, sent in each body.
        api_key: Bearer token, or None.
        by_text: Send text of about the right length instead of token ids, to a server that takes no ids.
        timeout_s: Of one request.
        extra: Further fields of each body.
        ours: It is a server of ours: it is told what its policy may want to know of a request, and numbers its answers.
    """

    url: str
    model: str
    api_key: str | None
    by_text: bool
    timeout_s: float
    extra: dict[str, Any]
    ours: bool = False


class HttpTransport(Transport):
    """Completions over HTTP, each on a connection of a pool, read as they stream.

    A chunk counts as one token, as every benchmark of such servers has it; how many tokens there really were is the
    server's ``usage``.

    Attributes:
        prompt_errors: Of each request, prompt tokens by the server's count less those of the trace.
        known_as: Of each request that began to be answered, the id in a server of ours to that of the trace.

    Args:
        endpoint: The server.
        workload: What is sent.
        prompts: Makes the token ids.
        check: Raises what the server died of, where that can be known.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        workload: Workload,
        prompts: PromptMaker,
        check: Callable[[], None] = lambda: None,
    ) -> None:
        self._endpoint = endpoint
        self._check = check
        self._trace = workload.trace
        self._prompts = prompts
        self._bodies: dict[int, bytes] = {}
        self._decode = msgspec.json.Decoder(_Event).decode
        self._news: deque[News] = deque()
        self._receiving = False
        self._tasks: set[asyncio.Task[None]] = set()
        allow_many_files()
        self._loop = punctual_loop()
        self._session = self._loop.run_until_complete(self._connect())
        self.prompt_errors: list[int] = []
        self.known_as: dict[int, int] = {}

    def prepare(self, row: int) -> None:
        if row in self._bodies:
            return
        endpoint, trace = self._endpoint, self._trace
        prompt = self._prompts.prompt(row)
        who = _who(trace, row) if endpoint.ours else {}
        self._bodies[row] = msgspec.json.encode(
            {
                "model": endpoint.model,
                "prompt": _words(prompt.tolist()) if endpoint.by_text else prompt.tolist(),
                "max_tokens": trace.output_tokens.item(row),
                "temperature": 0,
                "stream": True,
                "stream_options": {"include_usage": True},
                **who,
                **endpoint.extra,
            }
        )

    def send(self, row: int, arrival_s: float, start_s: float) -> None:
        del arrival_s
        self.prepare(row)
        task = self._loop.create_task(self._request(row, self._bodies.pop(row), start_s))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def receive(self, timeout_s: float) -> list[News]:
        if not self._news:
            self._turn(timeout_s)
        if not self._news:
            try:
                self._check()
            except RuntimeError as error:
                raise ServerGoneError(str(error)) from error
        news = list(self._news)
        self._news.clear()
        return news

    def _turn(self, timeout_s: float) -> None:
        """Let what is under way go on, until there is news or the time is over; at least one turn of the loop."""
        loop = self._loop
        end = loop.call_later(timeout_s, loop.stop) if timeout_s > 0 else loop.call_soon(loop.stop)
        self._receiving = True
        try:
            loop.run_forever()
        finally:
            self._receiving = False
            end.cancel()

    def close(self) -> None:
        self._loop.run_until_complete(self._leave())
        self._loop.close()

    async def _leave(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._session.close()

    async def _connect(self) -> aiohttp.ClientSession:
        endpoint = self._endpoint
        headers = {"Content-Type": "application/json"}
        if endpoint.api_key is not None:
            headers["Authorization"] = f"Bearer {endpoint.api_key}"
        return aiohttp.ClientSession(
            headers=headers,
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_S),
            timeout=aiohttp.ClientTimeout(total=endpoint.timeout_s),
            read_bufsize=1 << 18,
        )

    async def _request(self, row: int, body: bytes, start_s: float) -> None:
        finish = Finish("error", "error", None, 0)
        sent_s = time.monotonic() - start_s
        try:
            async with self._session.post(f"{self._endpoint.url}/v1/completions", data=body) as response:
                if response.status == 200:
                    await self._read(row, response, finish, start_s)
                else:
                    finish.status = "rejected" if response.status in (400, 413, 422, 429) else "error"
                    finish.error = f"HTTP {response.status}: {(await response.text())[:_MOST_ERROR]}"
        except TimeoutError:
            finish.status = "timeout"
            finish.error = f"no end within {self._endpoint.timeout_s:g} s"
        except (aiohttp.ClientError, ConnectionError, msgspec.DecodeError) as error:
            finish.status = "error"
            finish.error = f"{type(error).__name__}: {error}"[:_MOST_ERROR]
        finish.moments["sent_s"] = sent_s
        self._tell(News(row, 0, finish))

    async def _read(self, row: int, response: aiohttp.ClientResponse, finish: Finish, start_s: float) -> None:
        """Read a stream to its end; ``finish`` becomes ok when it had one.

        The chunk with the finish reason may bring a last token, or only text that was held back (half a character, the
        beginning of a stop string): the usage behind it says which.
        """
        chunks = 0
        text_at_end = False
        async with aclosing(event_data(response.content.iter_any())) as events:
            async for data in events:
                if data == _DONE:
                    break
                event = self._decode(data)
                if event.error is not None:
                    finish.error = str(event.error)[:_MOST_ERROR]
                    return
                if not chunks and self._endpoint.ours and event.id is not None:
                    with suppress(ValueError):  # a proxy between may have ids of its own
                        self.known_as[int(event.id.rpartition("-")[2], 16)] = self._trace.request_id.item(row)
                tokens = sum(choice.finish_reason is None for choice in event.choices)
                for choice in event.choices:
                    if choice.finish_reason is not None:
                        known = choice.finish_reason in FINISH_REASONS
                        finish.reason = choice.finish_reason if known else None
                        finish.status = "ok"
                        text_at_end = bool(choice.text)
                if event.usage is not None:
                    self._count(row, event.usage, finish)
                if event.moments:
                    told = event.moments[0]
                    finish.moments |= {name: s - start_s for name, s in told.items() if s is not None}
                if event.counts:
                    finish.counts = finish.counts._replace(**msgspec.structs.asdict(event.counts[0]))
                if tokens:
                    chunks += tokens
                    self._tell(News(row, tokens, None))
        finish.output_tokens = finish.output_tokens or chunks + text_at_end
        if finish.status != "ok":
            finish.error = "the stream ended without a finish_reason"
        elif finish.output_tokens > chunks:
            self._tell(News(row, 1, None))

    def _count(self, row: int, usage: _Usage, finish: Finish) -> None:
        finish.output_tokens = usage.completion_tokens
        self.prompt_errors.append(usage.prompt_tokens - self._trace.prompt_tokens.item(row))
        details = usage.prompt_tokens_details
        if details is not None and details.cached_tokens is not None:
            finish.counts = finish.counts._replace(cached_tokens=details.cached_tokens)

    def _tell(self, news: News) -> None:
        self._news.append(news)
        if self._receiving:  # not while leaving
            self._loop.stop()


def _who(trace: Trace, row: int) -> dict[str, Any]:
    """What policies read of a request beside its tokens, as our own API takes it."""
    deadline_s = trace.deadline_s.item(row)
    return {
        "priority": trace.priority.item(row),
        "session_id": trace.session_id.item(row),
        "client_id": trace.client_id.item(row),
        "deadline_s": None if math.isnan(deadline_s) else deadline_s,
    }


_WORDS = """
the of and to in is that for it as was with be by on not he his but at are this have from or had an they which one you
were all her she there would their we him been has when who will no more if out so up said what its about than into them
can only other time new some could these two may first then do any like my now over such our man me even most made after
also did many off before must well back through years much where your way down should because long each just state those
people too world good very year work still see own life men day here old great
""".split()  # noqa: SIM905  # a list of them is a page long


def _words(ids: list[int]) -> str:
    """As many common words as there are ids, each one token to most tokenizers; equal ids give equal words."""
    return " ".join([_WORDS[token % len(_WORDS)] for token in ids])


def reachable(url: str, api_key: str | None, timeout_s: float = 5.0) -> dict[str, str | None]:
    """Names of the models that a server says it has, with whose each is said to be.

    Raises:
        ServerGoneError: It does not answer as an OpenAI-compatible server does.
    """

    async def ask() -> dict[str, str | None]:
        headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        async with (
            aiohttp.ClientSession(headers=headers, timeout=timeout) as session,
            session.get(f"{url}/v1/models") as response,
        ):
            response.raise_for_status()
            return {str(model["id"]): model.get("owned_by") for model in (await response.json())["data"]}

    try:
        return asyncio.run(ask())
    except (aiohttp.ClientError, TimeoutError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ServerGoneError(f"{url}/v1/models: {type(error).__name__}: {error}") from error

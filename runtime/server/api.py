"""The API server process: OpenAI's HTTP API in front of the tokenizers and behind the detokenizer."""

from __future__ import annotations

import asyncio
import gc
import math
import socket
import time
from typing import Any

import uvicorn
from fastapi import FastAPI
from fastapi import Request as HttpRequest
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException

from runtime.engine.params import SamplingError
from runtime.messages import (
    API,
    LAUNCHER,
    ChatPrompt,
    ChatTurn,
    Ready,
    Request,
    TextPrompt,
    TokenPrompt,
    id_bytes,
)
from runtime.open_files import allow_many_files
from runtime.server.answers import ChatShape, CompletionShape, Shape
from runtime.server.auth import ApiKey
from runtime.server.config import Place, ServerConfig, ServerError
from runtime.server.errors import ApiError, complaint, printable
from runtime.server.frontend import Frontend
from runtime.server.limits import BodyLimit, Connection
from runtime.server.mail import Outbox
from runtime.server.meters import Meters, pages_by_state
from runtime.server.protocol import (
    ChatCompletion,
    ChatCompletionRequest,
    Completion,
    CompletionRequest,
    ErrorBody,
    Generation,
    Health,
    ModelCard,
    ModelList,
)
from runtime.server.respond import AnswerResponse

_IDLE_S = 75  # between two requests of a connection: longer than proxies keep theirs, so that they close first
_UNREAD_S = 60  # until the kernel ends a connection whose client takes nothing
_MOST_BODY_BYTES = 16 << 20  # some three million token ids; streams wait while it is parsed
_MOST_COPIED = 64 << 20  # characters or token ids of all choices' prompts
_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorBody, "description": "The request is wrong; the message says where."},
    408: {"model": ErrorBody, "description": "The body did not come."},
    413: {"model": ErrorBody, "description": "The body is too long."},
    401: {"model": ErrorBody, "description": "No or a wrong API key."},
    404: {"model": ErrorBody, "description": "There is no such model."},
    429: {"model": ErrorBody, "description": "The queue is full; Retry-After says when to come again."},
}
_STALLED: dict[int | str, dict[str, Any]] = {
    503: {"model": ErrorBody, "description": "A process hangs; the message names it."}
}


def _streams(name: str, model: type) -> dict[int | str, dict[str, Any]]:
    """Documentation of an answer that is JSON, or events where a stream was asked for."""
    return {
        **_ERRORS,
        200: {
            "model": model,
            "description": f"The {name}; with stream=true its chunks, as server-sent events.",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
    }


def make_app(config: ServerConfig, frontend: Frontend) -> FastAPI:
    """The API.

    Args:
        config: The server.
        frontend: Where requests go and pieces come from.
    """
    app = FastAPI(title="ServeTwin", version="1", docs_url="/docs", redoc_url=None)
    app.add_middleware(BodyLimit, most_bytes=_MOST_BODY_BYTES)
    if config.api_key is not None:
        app.add_middleware(ApiKey, key=config.api_key)
    meters = Meters()
    card = ModelCard(id=config.model, created=int(time.time()), max_model_len=config.scheduler.max_context)

    def answer(body: Generation, prompts: list[Prompt], logprobs: int | None, shape: Shape) -> AnswerResponse:
        _check_model(body.model, config.model)
        choices = len(prompts) * body.n
        received_s = time.monotonic()
        try:
            params = [body.params(logprobs, choice) for choice in range(body.n)]
        except SamplingError as error:
            raise ApiError(400, str(error)) from error
        copied = body.n * sum(_size(prompt) for prompt in prompts)
        if copied > _MOST_COPIED:
            raise ApiError(400, f"n={body.n}: {copied} characters or token ids in all prompts, at most {_MOST_COPIED}")
        place = frontend.open(choices)
        for choice in range(choices):
            request = Request(
                place.first_id + choice,
                API,
                prompts[choice // body.n],
                body.token_limit,
                params[choice % body.n],
                body.stops,
                body.ignore_eos,
                priority=body.priority,
                deadline_s=math.nan if body.deadline_s is None else received_s + body.deadline_s,
                session_id=body.session_id,
                client_id=body.client_id,
                received_s=received_s,
            )
            frontend.send(request)
        return AnswerResponse(frontend, place, choices, body, shape, meters)

    @app.post(
        "/v1/chat/completions",
        responses=_streams("answer", ChatCompletion),
        response_class=Response,
    )
    async def chat_completions(body: ChatCompletionRequest) -> Response:
        """Go on with a conversation."""
        turns = [ChatTurn(message.role, _valid(message.text, "messages")) for message in body.messages]
        _valid("".join(body.stops), "stop")
        options = body.chat_template_kwargs
        _valid("".join([str(part) for option in options.items() for part in option]), "chat_template_kwargs")
        logprobs = (body.top_logprobs or 0) if body.logprobs else None
        return answer(body, [ChatPrompt(turns, options)], logprobs, ChatShape())

    @app.post(
        "/v1/completions",
        responses=_streams("completion", Completion),
        response_class=Response,
    )
    async def completions(body: CompletionRequest) -> Response:
        """Go on with a text."""
        prompts: list[Prompt] = [_prompt(prompt, config.vocab_size) for prompt in body.prompts]
        _valid("".join(body.stops), "stop")
        return answer(body, prompts, body.logprobs, CompletionShape())

    @app.get("/v1/models", responses={401: _ERRORS[401]})
    async def models() -> ModelList:
        """What can be asked."""
        return ModelList(data=[card])

    @app.get("/v1/models/{model:path}", responses={status: _ERRORS[status] for status in (401, 404)})
    async def model(model: str) -> ModelCard:
        """One that can be asked; a name may hold slashes."""
        _check_model(model, config.model)
        return card

    @app.get("/health", responses=_STALLED)
    async def health() -> Health:
        """Whether no process hangs, and how the scheduler stands: by a round trip, or as of a step that takes long."""
        gauges = await frontend.gauges()
        pages = pages_by_state(gauges)
        return Health(
            waiting=gauges.waiting,
            running=gauges.running,
            pages=gauges.pages,
            pages_free=pages["free"],
            pages_cached=pages["cached"],
            pages_running=pages["running"],
        )

    @app.get("/metrics", responses=_STALLED, response_class=Response)
    async def metrics() -> Response:
        """Counters and gauges for Prometheus."""
        return Response(meters.text(await frontend.gauges()), media_type="text/plain; version=0.0.4; charset=utf-8")

    _answer_errors(app)
    _document(app)
    return app


Prompt = TextPrompt | TokenPrompt | ChatPrompt


def _prompt(prompt: str | list[int], vocab_size: int) -> Prompt:
    if isinstance(prompt, str):
        return TextPrompt(_valid(prompt, "prompt"))
    if max(prompt) >= vocab_size:
        raise ApiError(
            400, f"prompt: token id {max(prompt)} is not below the vocabulary of {vocab_size}", param="prompt"
        )
    return TokenPrompt(id_bytes(prompt))


def _size(prompt: Prompt) -> int:
    """Characters or token ids of a prompt."""
    if isinstance(prompt, TextPrompt):
        return len(prompt.text)
    if isinstance(prompt, TokenPrompt):
        return len(prompt.ids) // 4
    return sum(len(turn.content) for turn in prompt.turns)


def _valid(text: str, field: str) -> str:
    """The text, if it is text: JSON can hold half a surrogate pair."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ApiError(400, f"{field}: not valid Unicode: {error.reason}", param=field) from error
    return text


def _check_model(asked: str, served: str) -> None:
    if asked != served:
        raise ApiError(
            404, f"model={asked!r}: there is no such model, ask for {served!r}", code="model_not_found", param="model"
        )


def _answer_errors(app: FastAPI) -> None:
    """Every error in OpenAI's shape."""

    def respond(error: ApiError) -> Response:
        return Response(error.body, error.status, headers=error.headers, media_type="application/json")

    @app.exception_handler(ApiError)
    async def api_error(request: HttpRequest, error: ApiError) -> Response:
        del request
        return respond(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: HttpRequest, error: RequestValidationError) -> Response:
        del request
        return respond(complaint(error.errors()))

    @app.exception_handler(HTTPException)
    async def http_error(request: HttpRequest, error: HTTPException) -> Response:
        message = f"{request.method} {request.url.path}: {error.detail}"
        if error.status_code == 400:  # FastAPI's, of what json.loads cannot read for another reason than its grammar
            message = "the body cannot be read: JSON in UTF-8 is wanted, not nested too deep, no number too long"
        return respond(ApiError(error.status_code, printable(message), headers=dict(error.headers or {})))

    @app.exception_handler(Exception)
    async def failure(request: HttpRequest, error: Exception) -> Response:
        del request
        return respond(ApiError(500, f"{type(error).__name__} in the API server: see its log"))


def _document(app: FastAPI) -> None:
    """OpenAPI's page, without the 422 that FastAPI believes it answers with."""
    schema = app.openapi()
    for methods in schema["paths"].values():
        for operation in methods.values():
            operation["responses"].pop("422", None)
    for name in ("HTTPValidationError", "ValidationError"):
        schema["components"]["schemas"].pop(name, None)


class ApiProcess:
    """The API server.

    Args:
        place: Its name and its server.

    Raises:
        ServerError: Its address is taken or not ours.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        config = place.config
        self._socket = _bound(config.host, config.port)
        host, port = self._socket.getsockname()[:2]
        self._url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    def run(self) -> None:
        """Serve until told to stop."""
        allow_many_files()
        with asyncio.Runner(loop_factory=_new_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        frontend = Frontend(self._place)
        frontend.listen()
        app = make_app(self._place.config, frontend)
        server = uvicorn.Server(
            uvicorn.Config(
                app,
                http=Connection,
                ws="none",
                log_level="error",  # a client's nonsense is not the operator's affair
                access_log=False,
                lifespan="off",
                server_header=False,
                timeout_keep_alive=_IDLE_S,
            )
        )
        serving = asyncio.create_task(server.serve(sockets=[self._socket]))
        while not server.started and not serving.done():
            await asyncio.sleep(0.005)
        gc.collect()
        gc.freeze()
        outbox = Outbox(self._place.path)
        outbox.send(LAUNCHER, Ready(API, self._url))
        stopped = asyncio.create_task(frontend.stopped.wait())
        await asyncio.wait([serving, stopped], return_when=asyncio.FIRST_COMPLETED)
        server.should_exit = True  # no new connections; those that stream are finished
        await serving
        frontend.shut()
        outbox.close()


def _new_loop() -> asyncio.AbstractEventLoop:
    import uvloop

    return uvloop.new_event_loop()


def _bound(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux; connections inherit it
            bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNREAD_S * 1000)
        bound.bind(address)
        # Two servers may not share the port, even where the one before has only just begun to listen.
        bound.listen(2048)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ServerError(
            f"host={host} port={port}: {reason}; choose another port, or port=0 for a free one"
        ) from error
    return bound

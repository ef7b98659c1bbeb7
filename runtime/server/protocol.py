"""What the API takes: OpenAI's request bodies, with vLLM's names for what it lacks. An unknown field is an error."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt, model_validator

from runtime.engine.params import SamplingParams

Count = Annotated[StrictInt, Field(ge=1, le=2**31 - 1)]
TokenId = Annotated[StrictInt, Field(ge=0, le=2**31 - 1)]
BiasedToken = Annotated[int, Field(ge=0, le=2**31 - 1)]  # a key of a JSON object is a string
Int64 = Annotated[StrictInt, Field(ge=-(2**63), le=2**63 - 1)]
StopString = Annotated[str, Field(min_length=1, max_length=1024)]  # every token's text is compared with it
Tokens = Annotated[list[TokenId], Field(min_length=1)]

NOT_DONE = {  # what others' servers do
    "echo": "the prompt is not repeated in the answer",
    "suffix": "text is gone on with, not filled in",
    "best_of": "none of the n choices is thrown away",
    "tools": "no tools are called",
    "tool_choice": "no tools are called",
    "functions": "no functions are called",
    "function_call": "no functions are called",
    "parallel_tool_calls": "no tools are called",
    "response_format": "the output is text of any form",
    "audio": "the output is text",
    "modalities": "the output is text",
    "stop_token_ids": "an output ends by the model's own end tokens, or by stop strings",
    "skip_special_tokens": "special tokens are never shown",
    "include_stop_str_in_output": "the text ends before a stop string",
    "prompt_logprobs": "log-probabilities are those of output tokens",
    "use_beam_search": "tokens are sampled one by one",
    "store": "nothing is kept",
}


class Body(BaseModel):
    """Part of a request body."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _null_is_nothing(cls, body: Any) -> Any:
        """As OpenAI has it: null means the default. Some clients send it for all that they leave open."""
        return {name: value for name, value in body.items() if value is not None} if isinstance(body, dict) else body


class StreamOptions(Body):
    """Options of a stream."""

    include_usage: StrictBool = False
    continuous_usage_stats: StrictBool = Field(
        False, description="With include_usage: every chunk tells what its choice took so far."
    )


class Generation(Body):
    """What both endpoints take."""

    model: str
    max_tokens: Count | None = None
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: StrictInt = Field(0, ge=-1, le=2**31 - 1, description="0 or -1 for all tokens.")
    min_p: float = Field(0.0, ge=0, le=1)
    seed: Int64 | None = None
    n: StrictInt = Field(1, ge=1, le=128)
    stop: StopString | Annotated[list[StopString], Field(max_length=16)] | None = None
    presence_penalty: float = Field(0.0, ge=-2, le=2)
    frequency_penalty: float = Field(0.0, ge=-2, le=2)
    repetition_penalty: float = Field(1.0, gt=0, le=100)
    logit_bias: Annotated[dict[BiasedToken, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=1024)] = {}
    min_tokens: StrictInt = Field(0, ge=0, le=2**31 - 1)
    ignore_eos: StrictBool = False
    priority: Int64 = Field(0, description="For the server's policy: larger is more urgent (in vLLM, less).")
    deadline_s: Annotated[float, Field(strict=True, gt=0)] | None = Field(
        None, description="For the server's policy: seconds from now within which the last token is wanted."
    )
    session_id: Int64 = Field(-1, description="For the server's policy: the conversation this is a turn of, or -1.")
    client_id: Int64 = Field(-1, description="For the server's policy: the tenant who asks, or -1.")
    stream: StrictBool = False
    stream_options: StreamOptions | None = None
    user: str | None = Field(None, description="Taken, as OpenAI's clients may send it, and not used.")
    skip_special_tokens: Literal[True] = True
    return_moments: StrictBool = Field(
        False,
        description="Add the request's moments inside the server, and what the scheduler counted for it (chunks, "
        "preemptions, recomputed_tokens, preempted_s), to the end of the answer.",
    )

    @model_validator(mode="after")
    def _stream_options_need_a_stream(self) -> Generation:
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options: only with stream=true")
        return self

    @model_validator(mode="after")
    def _min_tokens_have_room(self) -> Generation:
        if self.token_limit is not None and self.min_tokens > self.token_limit:
            raise ValueError(f"min_tokens={self.min_tokens}: at most max_tokens={self.token_limit}")
        return self

    @property
    def token_limit(self) -> int | None:
        """The most output tokens, or None for as many as there is room for."""
        return self.max_tokens

    @property
    def stops(self) -> list[str]:
        """Stop strings."""
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    @property
    def include_usage(self) -> bool:
        """Whether a stream ends with a chunk of usage alone."""
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def continuous_usage(self) -> bool:
        """Whether every chunk of a stream tells what its choice took so far, as vLLM has it."""
        return self.include_usage and self.stream_options is not None and self.stream_options.continuous_usage_stats

    def params(self, logprobs: int | None, choice: int) -> SamplingParams:
        """How tokens are chosen, for one of the ``n`` choices.

        Raises:
            SamplingError: A parameter is out of range.
        """
        return SamplingParams(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=max(self.top_k, 0),
            min_p=self.min_p,
            seed=None if self.seed is None else (self.seed + choice) % 2**63,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            repetition_penalty=self.repetition_penalty,
            logprobs=logprobs,
            logit_bias=self.logit_bias,
            min_tokens=self.min_tokens,
        )


class TextPart(Body):
    """A part of a message."""

    type: Literal["text"]
    text: str


class ChatMessage(Body):
    """A message of a conversation."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | Annotated[list[TextPart], Field(min_length=1, max_length=1024)]

    @property
    def text(self) -> str:
        """Its parts in one."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)


class TextFormat(Body):
    """The only form of an output that there is."""

    type: Literal["text"]


class ChatCompletionRequest(Generation):
    """Body of ``POST /v1/chat/completions``."""

    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=10_000)]
    max_completion_tokens: Count | None = None
    logprobs: StrictBool = False
    top_logprobs: Annotated[StrictInt, Field(ge=0, le=20)] | None = None
    chat_template_kwargs: Annotated[dict[str, StrictBool | str], Field(max_length=64)] = Field(
        {}, description="What else the chat template is told, e.g. enable_thinking."
    )
    tool_choice: Literal["none"] | None = None
    response_format: TextFormat | None = None
    store: Literal[False] = False

    @property
    def token_limit(self) -> int | None:
        """See :class:`Generation`."""
        return self.max_completion_tokens or self.max_tokens

    @model_validator(mode="after")
    def _one_of_a_kind(self) -> ChatCompletionRequest:
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise ValueError("max_tokens and max_completion_tokens: only one of them")
        if self.top_logprobs is not None and not self.logprobs:
            raise ValueError("top_logprobs: only with logprobs=true")
        return self


class CompletionRequest(Generation):
    """Body of ``POST /v1/completions``."""

    prompt: (
        str
        | Tokens
        | Annotated[list[str], Field(min_length=1, max_length=1024)]
        | Annotated[list[Tokens], Field(min_length=1, max_length=1024)]
    )
    max_tokens: Count = 16
    logprobs: Annotated[StrictInt, Field(ge=0, le=5)] | None = None
    best_of: StrictInt | None = Field(None, description="As many as n: none is thrown away.")
    echo: Literal[False] = False
    suffix: Literal[""] = ""

    @model_validator(mode="after")
    def _best_of_as_many(self) -> CompletionRequest:
        if self.best_of not in (None, self.n):
            raise ValueError(f"best_of={self.best_of}: this server makes n={self.n} choices and throws none away")
        return self

    @property
    def prompts(self) -> list[str | list[int]]:
        """Each of the prompts, text or token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]
        return list(self.prompt)


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """Body of every answer that is an error, as OpenAI shapes it."""

    error: ErrorDetail


class ModelCard(BaseModel):
    """A model that can be asked."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "servetwin"
    max_model_len: int = Field(description="Prompt and output tokens together.")


class ModelList(BaseModel):
    """Body of ``GET /v1/models``."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class Health(BaseModel):
    """Body of ``GET /health``."""

    status: Literal["ok"] = "ok"
    waiting: int
    running: int
    pages: int
    pages_free: int
    pages_cached: int = Field(description="Held by the prefix cache alone: they can be evicted.")
    pages_running: int = Field(description="Held by running sequences.")


class PromptTokensDetails(BaseModel):
    """Where the prompt's KV came from."""

    cached_tokens: int


class Usage(BaseModel):
    """What an answer took, tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class ChatChoice(BaseModel):
    """One of the answers."""

    index: int
    message: dict[str, Any]
    logprobs: dict[str, Any] | None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(BaseModel):
    """Answer of ``POST /v1/chat/completions``."""

    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    moments: list[dict[str, float]] | None = None
    counts: list[dict[str, float]] | None = None


class CompletionChoice(BaseModel):
    """One of the answers."""

    index: int
    text: str
    logprobs: dict[str, Any] | None
    finish_reason: Literal["stop", "length"]


class Completion(BaseModel):
    """Answer of ``POST /v1/completions``."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage
    moments: list[dict[str, float]] | None = None
    counts: list[dict[str, float]] | None = None

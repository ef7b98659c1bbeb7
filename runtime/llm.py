"""Offline use: a model, prompts in, completions out, all in this process."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from collections.abc import Sequence as Sequences
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch

from policies import build_policy
from runtime.distributed import SingleCommunicator
from runtime.engine.engine import TokenLogprobs
from runtime.engine.memory import pages_on_gpu
from runtime.engine.offline import run_offline
from runtime.engine.params import GREEDY, SamplingParams
from runtime.engine.torch_engine import load_model, make_engine
from runtime.engine.trial import fitted_pages
from runtime.layers.parts import Placement
from runtime.models.config import load_model_config, model_folder
from runtime.scheduler import RequestRejectedError, Scheduler, SchedulerConfig, Sequence
from runtime.server.stream import TextStream
from runtime.server.text import TextTokenizer, load_tokenizer

Prompt = str | Sequences[int]

_PAGES_ON_CPU = 1024
_MEMORY_FRACTION = 0.9
_MOST_SLOTS = (1 << 31) - 1  # page tables are of 32 bits
_POLICY = {
    "order": {"name": "fcfs"},
    "batching": {"name": "chunked", "step_tokens": 2048},
    "reservation": {"name": "none"},
    "preemption": {"name": "newest"},
    "eviction": {"name": "lru"},
    "prediction": {"name": "max_tokens"},
}


@dataclass(slots=True)
class Completion:
    """What a model makes of a prompt.

    Attributes:
        token_ids: Output tokens, one that ended it included.
        text: Their text; empty where the model has no tokenizer.
        finish_reason: ``stop`` or ``length``; empty where the output goes on.
        prompt_tokens: Length of the prompt.
        cached_tokens: Of these, found in the prefix cache.
        logprobs: One for each token, where they were asked for.
    """

    token_ids: list[int] = field(default_factory=list)
    text: str = ""
    finish_reason: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    logprobs: list[TokenLogprobs] = field(default_factory=list)


class LLM:
    """A model with a scheduler of its own, on one device. Its prefix cache lasts from call to call.

    Args:
        model: A Hugging Face folder (``config.json``, safetensors, ``tokenizer.json``), or a configuration's fields.
        seed: Random weights by this seed; needed where ``model`` is not a folder with weights.
        device: ``cpu``, ``cuda``, ``cuda:1``, ...
        dtype: ``float32``, ``bfloat16`` or ``float16``; the model's own by default.
        pages: Pages of KV; by default what is free on a GPU, and 1,024 on a CPU.
        page_size: Tokens a page.
        max_running: The most sequences at once.
        max_context: Prompt and output tokens of the longest sequence; the model's own limit by default.
        policy: Parts of :func:`policies.build_policy`'s configuration other than the default: first come first served,
            chunked prefill, preemption of the newest.

    Raises:
        ModelError: The model cannot be loaded.
        KvMemoryError: There is no room for KV.
    """

    def __init__(
        self,
        model: str | Path | Mapping[str, Any],
        *,
        seed: int | None = None,
        device: str = "cpu",
        dtype: str | None = None,
        pages: int | None = None,
        page_size: int = 16,
        max_running: int = 64,
        max_context: int | None = None,
        policy: Mapping[str, Any] | None = None,
    ) -> None:
        config = load_model_config(model)
        kind: torch.dtype = getattr(torch, dtype or config.dtype)
        placement = Placement(SingleCommunicator(), torch.device(device), kind)
        self._folder = model_folder(model)
        self._config = config
        loaded = load_model(model, config, placement, seed)
        chosen = build_policy({**_POLICY, **(policy or {})})
        make = partial(make_engine, config, loaded, placement)
        limit = max_context or config.max_position_embeddings
        sizes = SchedulerConfig(_PAGES_ON_CPU if pages is None else pages, page_size, max_running, limit)
        if pages is None and placement.device.type == "cuda":
            measure = partial(pages_on_gpu, config, placement, page_size=page_size, fraction=_MEMORY_FRACTION)
            sizes = replace(sizes, pages=_MOST_SLOTS // page_size)
            pages = fitted_pages(make, sizes, step_tokens=chosen.batching.step_tokens, measure=measure)
            sizes = replace(sizes, pages=pages)
        self._scheduler = Scheduler(sizes, chosen)
        self._engine = make(sizes, self._scheduler.memory.table)
        self._ids = count()

    @cached_property
    def tokenizer(self) -> TextTokenizer | None:
        """The model's tokenizer, or None where its folder has none."""
        if self._folder is None or not (self._folder / "tokenizer.json").is_file():
            return None
        return load_tokenizer(str(self._folder))

    def generate(
        self,
        prompts: Sequences[Prompt],
        params: SamplingParams = GREEDY,
        *,
        max_tokens: int = 128,
        ignore_eos: bool = False,
    ) -> list[Completion]:
        """Complete prompts, batched together.

        Args:
            prompts: Text or token ids.
            params: How tokens are chosen.
            max_tokens: The most tokens of an output.
            ignore_eos: Whether outputs run to ``max_tokens`` whatever the model says.

        Returns:
            A completion for each prompt.

        Raises:
            RequestRejectedError: A prompt is empty, or with ``max_tokens`` exceeds the context or the KV memory.
            ValueError: A prompt is text and the model has no tokenizer, or its ids exceed the vocabulary.
        """
        sequences = [self._sequence(prompt, max_tokens, ignore_eos) for prompt in prompts]
        completions = {sequence.request_id: Completion() for sequence in sequences}
        for sequence, token, logprobs in self._run(sequences, params):
            completions[sequence.request_id].token_ids.append(token)
            if logprobs is not None:
                completions[sequence.request_id].logprobs.append(logprobs)
        for sequence in sequences:
            completion = completions[sequence.request_id]
            if self.tokenizer is not None:
                stream = self._text_stream(self.tokenizer, sequence)
                completion.text = stream.push(completion.token_ids) + stream.finish()
            completion.finish_reason = str(sequence.finish_reason)
            completion.prompt_tokens = sequence.prompt_tokens
            completion.cached_tokens = sequence.hit_tokens
        return list(completions.values())

    def stream(
        self, prompt: Prompt, params: SamplingParams = GREEDY, *, max_tokens: int = 128, ignore_eos: bool = False
    ) -> Iterator[Completion]:
        """Complete one prompt, token by token; arguments and errors are those of :meth:`generate`.

        Yields:
            What each token adds: its id, and text that is whole characters. The last one has the finish reason.
        """
        sequence = self._sequence(prompt, max_tokens, ignore_eos)
        text = None if self.tokenizer is None else self._text_stream(self.tokenizer, sequence)
        with closing(self._run([sequence], params)) as tokens:
            for _, token, logprobs in tokens:
                piece = Completion([token], prompt_tokens=sequence.prompt_tokens, cached_tokens=sequence.hit_tokens)
                piece.logprobs = [] if logprobs is None else [logprobs]
                piece.text = "" if text is None else text.push([token])
                if sequence.finish_reason is not None:
                    piece.finish_reason = sequence.finish_reason
                    piece.text += "" if text is None else text.finish()
                yield piece

    def close(self) -> None:
        """End the engine."""
        self._engine.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _sequence(self, prompt: Prompt, max_tokens: int, ignore_eos: bool) -> Sequence:
        if isinstance(prompt, str):
            if self.tokenizer is None:
                raise ValueError("a prompt is text and the model's folder has no tokenizer.json: give token ids")
            prompt = self.tokenizer.encode(prompt)
        stop_ids = frozenset(self._config.eos_token_ids if self.tokenizer is None else self.tokenizer.eos_ids)
        tokens = np.array(prompt, np.int32)
        if len(tokens) and not (tokens.min() >= 0 and tokens.max() < self._config.vocab_size):
            raise ValueError(f"a prompt's token ids are not all below the model's vocab_size={self._config.vocab_size}")
        return Sequence(
            next(self._ids), len(tokens), tokens, max_tokens, stop_ids=frozenset() if ignore_eos else stop_ids
        )

    def _run(
        self, sequences: list[Sequence], params: SamplingParams
    ) -> Generator[tuple[Sequence, int, TokenLogprobs | None]]:
        """Run sequences to their ends; yields each token as its step is committed."""
        for sequence in sequences:
            self._engine.admit(sequence.request_id, params)
        try:
            with closing(run_offline(self._scheduler, self._engine, sequences)) as events:
                for event in events:
                    if not isinstance(event, tuple):
                        raise RequestRejectedError(event.error)
                    outputs, logprobs = event
                    yield from zip(outputs.sequences, outputs.tokens or [], logprobs, strict=True)
        finally:
            for sequence in sequences:
                self._engine.forget(sequence.request_id)

    def _text_stream(self, tokenizer: TextTokenizer, sequence: Sequence) -> TextStream:
        prompt = sequence.tokens[: sequence.prompt_tokens].tolist()
        return TextStream(tokenizer.decode, prompt[-8:])

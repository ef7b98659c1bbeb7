"""Offline use, on a small random model with the built-in tokenizer."""

# ruff: noqa: E402 (what needs torch is imported once it is known to be there)
from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
safetensors_torch = pytest.importorskip("safetensors.torch")
pytest.importorskip("tokenizers")

from runtime import LLM
from runtime.engine.params import SamplingParams
from runtime.engine.place import EnginePlace
from runtime.engine.torch_engine import TorchEngine, build, load_model
from runtime.llm import Prompt
from runtime.models.config import load_model_config
from runtime.scheduler import RequestRejectedError, SchedulerConfig
from runtime.server.text import BYTE_LEVEL_VOCAB_SIZE, byte_level_tokenizer
from tests.tiny.serving import on_cpu

FIELDS: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "vocab_size": BYTE_LEVEL_VOCAB_SIZE,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 200,
    "dtype": "float32",
}
PROMPTS = ["Once upon a time", "Grüße aus Köln, 你好", "!"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint."""
    folder = tmp_path_factory.mktemp("model")
    model = load_model(FIELDS, load_model_config(FIELDS), on_cpu(), seed=5)
    safetensors_torch.save_file({part.name: part.target.detach() for part in model.parts()}, folder / "m.safetensors")
    (folder / "config.json").write_text(json.dumps(FIELDS))
    byte_level_tokenizer().save(folder)
    return folder


@pytest.fixture(scope="module")
def llm(folder: Path) -> Iterator[LLM]:
    torch.set_num_threads(1)
    with LLM(folder, pages=64, max_running=4) as llm:
        yield llm


def test_text_in_text_out(llm: LLM) -> None:
    completions = llm.generate(PROMPTS, max_tokens=20, ignore_eos=True)
    decode = byte_level_tokenizer().decode
    for prompt, completion in zip(PROMPTS, completions, strict=True):
        ids = byte_level_tokenizer().encode(prompt)
        assert completion.text == decode(completion.token_ids)
        assert completion.prompt_tokens == len(ids)
        assert len(completion.token_ids) == 20
        assert completion.finish_reason == "length"
        assert llm.generate([ids], max_tokens=20, ignore_eos=True)[0].token_ids == completion.token_ids
    again = llm.generate(PROMPTS, max_tokens=20, ignore_eos=True)
    assert [c.text for c in again] == [c.text for c in completions]
    assert again[1].cached_tokens >= 16


def test_a_stream_adds_up(llm: LLM) -> None:
    params = SamplingParams(seed=3, temperature=2.0, logprobs=2)
    whole = llm.generate([PROMPTS[1]], params, max_tokens=40)[0]
    pieces = list(llm.stream(PROMPTS[1], params, max_tokens=40))
    assert "".join(piece.text for piece in pieces) == whole.text
    assert [token for piece in pieces for token in piece.token_ids] == whole.token_ids
    assert [piece.finish_reason for piece in pieces] == [""] * (len(pieces) - 1) + [whole.finish_reason]
    assert [len(logprobs.top_ids) for logprobs in whole.logprobs] == [2] * len(whole.token_ids)


def test_a_stream_cut_short_leaves_nothing_behind(llm: LLM) -> None:
    stream = llm.stream(PROMPTS[0], max_tokens=100, ignore_eos=True)
    first = next(stream)
    steps = llm._scheduler._step
    stream.close()  # type: ignore[attr-defined]
    assert llm._scheduler._step <= steps + 1
    memory = llm._scheduler.memory
    assert memory.available_pages == 64
    assert not llm._scheduler.unfinished()
    assert llm.generate([PROMPTS[0]], max_tokens=1)[0].token_ids == first.token_ids


def test_bad_prompts_are_refused_and_harm_nobody(llm: LLM) -> None:
    wrong: list[tuple[list[Prompt], str]] = [
        ([PROMPTS[0], "x" * 500, PROMPTS[2]], "exceed the context of 200"),
        ([PROMPTS[0], []], "the prompt is empty"),
    ]
    for prompts, message in wrong:
        with pytest.raises(RequestRejectedError, match=message):
            llm.generate(prompts, max_tokens=10)
        assert not llm._scheduler.unfinished()
    with pytest.raises(ValueError, match="vocab_size=259"):
        llm.generate([[1, 259]])
    assert len(llm.generate(PROMPTS, max_tokens=10, ignore_eos=True)) == 3


def test_a_model_without_files_takes_token_ids() -> None:
    with LLM(FIELDS, seed=5, pages=16) as llm:
        assert len(llm.generate([[1, 2, 3]], max_tokens=4)[0].token_ids) == 4
        with pytest.raises(ValueError, match=r"no tokenizer\.json"):
            llm.generate(["text"])


def test_a_worker_builds_the_same_engine(folder: Path) -> None:
    sizes = SchedulerConfig(pages=8, page_size=16, max_running=2, max_context=64)
    place = EnginePlace(sizes, step_tokens=64, rank=0, tp=1, rendezvous="")
    table = np.zeros((2, sizes.max_row_pages), np.int32)
    for options in (
        {"model": str(folder), "threads": 1},
        {"model": {**FIELDS, "path": str(folder / "config.json")}},
        {"model": FIELDS, "seed": 5, "dtype": "bfloat16"},
    ):
        loaded = build(options, place)
        assert loaded.scheduler == sizes
        engine = loaded.start(table)
        assert isinstance(engine, TorchEngine)
        engine.close()


def test_the_package_itself_does_not_import_torch() -> None:
    code = (
        "import sys, runtime, runtime.engine.engine, runtime.engine.params, runtime.models.config;"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
    with pytest.raises(ImportError):
        from runtime import Nonsense  # noqa: F401

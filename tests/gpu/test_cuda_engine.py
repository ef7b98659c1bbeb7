"""The GPU engine's tokens are those of the reference, however its steps are run."""

# ruff: noqa: E402 (what needs a GPU is imported once it is known to be there)
from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)
pytest.importorskip("flashinfer", reason="needs FlashInfer")

from runtime.attention.base import AttentionMetadata
from runtime.attention.flashinfer import FlashInferAttention
from runtime.engine.memory import kv_pool
from tests.gpu.small import HALF, Small, assert_likeliest, exact_logits, greedy, small
from tests.tiny.serving import prompts

COUNT = 40
SHARED = prompts(200, vocab_size=8192, seed=9)[0]
ASKED = [
    *prompts(5, 70, 33, 300, 1, vocab_size=8192),
    SHARED + prompts(9, vocab_size=8192)[0],
    SHARED[:140],
    [*SHARED],
    [*SHARED],
]


@pytest.fixture(scope="module", params=[4, 2], ids=["group_2", "group_4"])
def model(request: pytest.FixtureRequest) -> Small:
    """Query heads in groups: decode on CUDA cores, and on tensor cores."""
    return small(request.param)


@pytest.mark.parametrize("cuda_graph", [True, False], ids=["graph", "eager"])
@pytest.mark.parametrize("overlap", [True, False], ids=["overlap", "in_turn"])
@pytest.mark.parametrize("page_size", [1, 16, 64])
def test_greedy_tokens(model: Small, page_size: int, overlap: bool, cuda_graph: bool) -> None:
    assert_likeliest(
        model, ASKED, COUNT, greedy(model, ASKED, COUNT, page_size=page_size, overlap=overlap, cuda_graph=cuda_graph)
    )


@pytest.mark.parametrize("batching", ["chunked", "prefill_first", "decode_first"])
def test_chunked_prefill(model: Small, batching: str) -> None:
    policy = {"batching": {"name": batching, "step_tokens": 37}}
    assert_likeliest(model, ASKED, COUNT, greedy(model, ASKED, COUNT, policy=policy))


def test_preemption_and_eviction(model: Small) -> None:
    policy = {"reservation": {"name": "none"}}
    assert_likeliest(model, ASKED, COUNT, greedy(model, ASKED, COUNT, policy=policy, pages=60))


def test_the_same_run_gives_the_same_tokens(model: Small) -> None:
    assert greedy(model, ASKED, COUNT, overlap=True) == greedy(model, ASKED, COUNT, overlap=True)


def test_prefill_logits_are_those_of_float32(model: Small) -> None:
    tokens = prompts(700, vocab_size=8192, seed=3)[0]
    pool = kv_pool(model.config, HALF, pages=44, page_size=16)
    counts, slots = np.array([700]), torch.arange(700, device="cuda")
    pages = np.arange(44, dtype=np.int32)[None]
    with torch.inference_mode():
        attention = FlashInferAttention(pool, 16, model.config.num_attention_heads)
        step = attention.plan(AttentionMetadata(counts, counts, pages, 1, slots))
        logits = model.half.logits(model.half(torch.tensor(tokens, device="cuda"), slots, step))
    expected = exact_logits(model, tokens)
    assert (logits - expected).norm() / expected.norm() < 2e-2

"""The GPU engine's tokens are those of the reference, however its steps are run."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)
pytest.importorskip("flashinfer", reason="needs FlashInfer")

from runtime.engine.graphs import ladder
from tests.gpu.small import exact_logits, greedy, models
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


@pytest.fixture(scope="module")
def both() -> tuple[Any, Any]:
    return models()


def assert_likeliest(exact: Any, continuations: list[list[int]]) -> None:
    """Each token is the likeliest by the float32 reference, or so close to it that bfloat16 cannot tell."""
    for prompt, tokens in zip(ASKED, continuations, strict=True):
        assert len(tokens) == COUNT
        logits = exact_logits(exact, prompt + tokens[:-1])[len(prompt) - 1 :]
        chosen = logits.gather(1, torch.tensor(tokens, device="cuda")[:, None])[:, 0]
        behind = (logits.amax(1) - chosen) / logits.norm(dim=1) * logits.shape[1] ** 0.5
        assert behind.max() < 0.1, behind.max()
        assert (behind == 0).float().mean() > 0.85


@pytest.mark.parametrize("cuda_graph", [True, False], ids=["graph", "eager"])
@pytest.mark.parametrize("overlap", [True, False], ids=["overlap", "in_turn"])
@pytest.mark.parametrize("page_size", [1, 16, 64])
def test_greedy_tokens(both: tuple[Any, Any], page_size: int, overlap: bool, cuda_graph: bool) -> None:
    half, exact = both
    assert_likeliest(exact, greedy(half, ASKED, COUNT, page_size=page_size, overlap=overlap, cuda_graph=cuda_graph))


@pytest.mark.parametrize("batching", ["chunked", "prefill_first", "decode_first"])
def test_chunked_prefill(both: tuple[Any, Any], batching: str) -> None:
    half, exact = both
    policy = {"batching": {"name": batching, "step_tokens": 37}}
    assert_likeliest(exact, greedy(half, ASKED, COUNT, policy=policy))


def test_preemption_and_eviction(both: tuple[Any, Any]) -> None:
    half, exact = both
    policy = {"reservation": {"name": "none"}}
    assert_likeliest(exact, greedy(half, ASKED, COUNT, policy=policy, pages=60))


def test_overlap_and_order_change_nothing(both: tuple[Any, Any]) -> None:
    half, _ = both
    assert greedy(half, ASKED, COUNT, overlap=True) == greedy(half, ASKED, COUNT, overlap=True)


def test_prefill_logits_are_those_of_float32(both: tuple[Any, Any]) -> None:
    from runtime.attention.base import AttentionMetadata
    from runtime.attention.flashinfer import FlashInferAttention
    from runtime.engine.memory import kv_pool
    from tests.gpu.small import CONFIG, HALF, np

    half, exact = both
    tokens = prompts(700, vocab_size=8192, seed=3)[0]
    pool = kv_pool(CONFIG, HALF, pages=44, page_size=16)
    counts, slots = np.array([700]), torch.arange(700, device="cuda")
    attention = FlashInferAttention(pool, 16, CONFIG.num_attention_heads)
    with torch.inference_mode():
        pages = np.arange(44, dtype=np.int32)[None]
        step = attention.plan(AttentionMetadata(counts, counts, pages, 1, slots))
        logits = half.logits(half(torch.tensor(tokens, device="cuda"), slots, step))
    expected = exact_logits(exact, tokens)
    assert (logits - expected).norm() / expected.norm() < 2e-2


def test_ladder_ends_at_the_largest() -> None:
    assert ladder(1) == [1]
    assert ladder(20) == [1, 2, 4, 8, 16, 20]
    assert ladder(256)[-1] == 256

"""Products that start while the kernel before them ends: numbers of a stream in order, in graphs and in the engine."""

# ruff: noqa: E402 (what needs a GPU is imported once it is known to be there)
from __future__ import annotations

from itertools import product

import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)
if torch.cuda.get_device_capability() < (9, 0):
    pytest.skip("needs a GPU that launches kernels early (compute capability 9)", allow_module_level=True)

import torch.nn.functional as F  # noqa: N812 (its name everywhere)
from torch import Tensor

from runtime.kernels import Weight, fused
from runtime.kernels.fused import FusedKernels
from runtime.kernels.launch import OVERLAP_TOKENS
from runtime.kernels.skinny import skinny_linear, skinny_tiling
from tests.gpu.small import Small, assert_likeliest, greedy, small
from tests.tiny.serving import prompts

WIDTH, INNER = 4096, 6144
EPS = 1e-6


def noise(*shape: int, seed: int) -> Tensor:
    drawn = torch.randn(*shape, generator=torch.Generator("cuda").manual_seed(seed), device="cuda")
    return (drawn / shape[-1] ** 0.5).bfloat16()


@pytest.mark.parametrize(
    ("rows", "inputs", "outputs"),
    [
        *product((1, 2, 7, 16), (4096, 1024), (6144, 4096)),
        *product((17, 32, 50, 64), (4096, 1024), (6144, 24576)),
        (3, 2560, 9728),
        (3, 3072, 1024),
    ],
)
@pytest.mark.parametrize("bias", [False, True])
def test_linear(rows: int, inputs: int, outputs: int, bias: bool) -> None:
    x, weight = noise(rows, inputs, seed=0), noise(outputs, inputs, seed=1)
    offset = noise(outputs, seed=2) if bias else None
    assert skinny_tiling(rows, inputs, outputs) is not None
    found = FusedKernels(overlap_launch=True).linear(x, Weight(weight, None), offset)
    exact = F.linear(x.float(), weight.float(), None if offset is None else offset.float())
    assert (found - exact).norm() / exact.norm() < 5e-3


def layers(x: Tensor, weights: list[Tensor], *, early: bool) -> Tensor:
    """Blocks of norm, product, gate and product, whose memory PyTorch's allocator uses again and again."""
    kernels = FusedKernels(overlap_launch=early)
    residual, x, norm = x.clone(), torch.zeros_like(x), torch.ones_like(x[0])
    for up, down in zip(weights[::2], weights[1::2], strict=True):
        for weight in (up, down):
            tiling = skinny_tiling(len(x), weight.shape[1], len(weight))
            assert tiling is not None
            if weight is up:
                x, residual = kernels.add_rms_norm(x, residual, norm, EPS)
            x = skinny_linear(x, weight, None, tiling, overlap_launch=early)
            if weight is up:
                x = kernels.silu_and_mul(x)
    return residual + x


@pytest.mark.parametrize("rows", [1, 16])
def test_early_launches_keep_the_order_of_the_stream(rows: int) -> None:
    # Outputs of a product are memory that an earlier kernel has read: were they written early, numbers would differ.
    weights = [noise(*shape, seed=seed) for seed in range(8) for shape in ((2 * INNER, WIDTH), (WIDTH, INNER))]
    inputs = [noise(rows, WIDTH, seed=100 + index) for index in range(4)]
    with torch.inference_mode():
        expected = [layers(x, weights, early=False) for x in inputs]
        given = inputs[0].clone()
        layers(given, weights, early=True)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = layers(given, weights, early=True)
        for _ in range(5):
            for x, exact in zip(inputs, expected, strict=True):
                given.copy_(x)
                graph.replay()
                assert torch.equal(result, exact)
                assert torch.equal(layers(x, weights, early=True), exact)


ASKED = prompts(5, 70, 33, 300, 1, vocab_size=8192)
COUNT = 24


@pytest.fixture(scope="module")
def model() -> Small:
    """Wide enough for all products."""
    return small(8, hidden_size=1024, num_attention_heads=32, intermediate_size=2048)


@pytest.mark.parametrize("cuda_graph", [True, False], ids=["graph", "eager"])
def test_greedy_tokens(model: Small, cuda_graph: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("flashinfer", reason="needs FlashInfer")
    taken: list[int] = []

    def watched(x: Tensor, *arguments: Tensor, **options: bool) -> Tensor:
        taken.append(len(x))
        return skinny_linear(x, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(fused, "skinny_linear", watched)
    continuations = greedy(model, ASKED, COUNT, cuda_graph=cuda_graph)
    assert taken
    assert max(taken) <= OVERLAP_TOKENS
    assert_likeliest(model, ASKED, COUNT, continuations, share=0.8)

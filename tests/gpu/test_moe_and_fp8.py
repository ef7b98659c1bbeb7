"""A mixture of experts, fp8 weights and fp8 KV in the GPU engine: tokens are those of the reference."""

# ruff: noqa: E402 (what needs a GPU is imported once it is known to be there)
from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
if not torch.cuda.is_available():
    pytest.skip("needs a GPU", allow_module_level=True)

from runtime.kernels.fp8 import FP8, quantize
from runtime.kernels.fused_fp8 import quantize_rows, scaled_linear
from runtime.kernels.reference import TorchKernels
from runtime.layers.parts import Placement
from runtime.models.registry import build_model
from runtime.weights import random_weights
from tests.gpu.small import HALF, MOE, TIE, Small, behind_likeliest, greedy, small
from tests.tiny.serving import prompts

COUNT = 24
ASKED = prompts(5, 70, 33, 300, 1, vocab_size=8192)


def behind(model: Small, continuations: list[list[int]]) -> torch.Tensor:
    """How far each token is behind the likeliest by float32, in root mean squares of the logits."""
    assert [len(tokens) for tokens in continuations] == [COUNT] * len(ASKED)
    return behind_likeliest(model, ASKED, continuations)


@pytest.fixture(scope="module")
def experts() -> Small:
    return small(2, **MOE)


@pytest.mark.parametrize("cuda_graph", [True, False], ids=["graph", "eager"])
@pytest.mark.parametrize("attention", ["auto", "triton"])
def test_mixture_of_experts(experts: Small, attention: str, cuda_graph: bool) -> None:
    far = behind(experts, greedy(experts, ASKED, COUNT, attention=attention, cuda_graph=cuda_graph))
    # Where bfloat16 sends a token to another expert of about the same weight, its logits are others.
    assert far.max() < 0.5, far.max()
    assert (far == 0).float().mean() > 0.8


def test_a_mixture_of_experts_gives_the_same_tokens_again(experts: Small) -> None:
    assert greedy(experts, ASKED, COUNT) == greedy(experts, ASKED, COUNT)


@pytest.mark.parametrize("attention", ["triton", "flashinfer+triton", "triton+flashinfer"])
@pytest.mark.parametrize("page_size", [1, 16])
def test_attention_backends_in_the_engine(attention: str, page_size: int) -> None:
    if "flashinfer" in attention:
        pytest.importorskip("flashinfer", reason="needs FlashInfer")
    model = small(2)
    far = behind(model, greedy(model, ASKED, COUNT, attention=attention, page_size=page_size))
    assert far.max() < TIE, far.max()
    assert (far == 0).float().mean() > 0.85


@pytest.mark.parametrize("head_dim", [64, 96])
def test_other_widths_of_heads(head_dim: int) -> None:
    model = small(4, head_dim=head_dim)
    far = behind(model, greedy(model, ASKED, COUNT))
    assert far.max() < TIE, far.max()


needs_fp8 = pytest.mark.skipif(torch.cuda.get_device_capability() < (8, 9), reason="needs a GPU with fp8")


@needs_fp8
@pytest.mark.parametrize("rows", [1, 7, 16, 300])
@pytest.mark.parametrize(("inputs", "outputs"), [(512, 1024), (1024, 512), (4096, 6144)])
def test_scaled_product(rows: int, inputs: int, outputs: int) -> None:
    x, w = (torch.randn(n, inputs, device="cuda").bfloat16() for n in (rows, outputs))
    rounded, scales = quantize_rows(x, overlap_launch=False)
    expected_rounded, expected_scales = quantize(x)
    assert torch.allclose(scales, expected_scales)
    assert (rounded.float() == expected_rounded.float()).float().mean() > 0.999
    values, weight_scales = quantize(w)
    found = scaled_linear(x, values, weight_scales, overlap_launch=False)
    exact = (rounded.double() @ values.double().T) * scales[:, None] * weight_scales
    assert (found.double() - exact).norm() / exact.norm() < 1e-2
    assert (exact - x.double() @ w.double().T).norm() / exact.norm() < 6e-2


@needs_fp8
def test_kv_is_rounded_to_fp8_as_the_reference_does() -> None:
    heads, kv_heads, head_dim = 4, 2, 128
    qkv = torch.randn(9, heads + 2 * kv_heads, head_dim, device="cuda").bfloat16() * 300  # some beyond 448
    angles = torch.rand(9, 1, head_dim // 2, device="cuda") * 6
    cos, sin = angles.cos().bfloat16(), angles.sin().bfloat16()
    slots = torch.randperm(16, device="cuda")[:9]
    pools = [torch.zeros(2, 16, kv_heads, head_dim, device="cuda").to(FP8) for _ in range(2)]
    TorchKernels().rotate_and_store(qkv.clone(), None, cos, sin, *pools[0], slots)
    HALF.kernels.rotate_and_store(qkv.clone(), None, cos, sin, *pools[1], slots)
    assert torch.equal(pools[0][1].float(), pools[1][1].float())  # values go as they are
    same = (pools[0][0].float() == pools[1][0].float()).float().mean()
    assert same > 0.85  # the reference rounds to bfloat16 within the rotation too
    assert pools[1].float().abs().amax() == 448


@needs_fp8
@pytest.mark.parametrize("moe", [False, True], ids=["dense", "experts"])
@pytest.mark.parametrize(
    ("fp8_weights", "fp8_kv"), [(False, True), (True, False), (True, True)], ids=["kv", "weights", "both"]
)
@pytest.mark.parametrize("cuda_graph", [True, False], ids=["graph", "eager"])
def test_fp8(moe: bool, fp8_weights: bool, fp8_kv: bool, cuda_graph: bool) -> None:
    model = small(2, **(MOE if moe else {}))
    placement: Placement = replace(HALF, fp8_weights=fp8_weights, fp8_kv=fp8_kv)
    rounded = build_model(model.config, placement)
    random_weights(rounded, 1)
    continuations = greedy(
        model._replace(half=rounded), ASKED, COUNT, placement=placement, cuda_graph=cuda_graph, page_size=16
    )
    far = behind(model, continuations)
    # Random weights have no favourites: a wrong layer would leave tokens 4 behind, the largest of 8,192.
    assert far.mean() < 0.3, far.mean()

"""The fused kernels compute what the reference does: on the GPU where there is one, else in Triton's interpreter."""

# ruff: noqa: E402 (what needs Triton is imported once it is known to be there)
from __future__ import annotations

import os

import pytest

torch = pytest.importorskip("torch")
ON_GPU = torch.cuda.is_available()
if not ON_GPU:
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported
pytest.importorskip("triton", reason="the fused kernels are written in Triton, which is not installed")

from runtime.kernels import HeadNorms, TorchKernels
from runtime.kernels.fused import FusedKernels

DEVICE = "cuda" if ON_GPU else "cpu"
# Triton's interpreter rounds bfloat16 as NumPy can: float16 tests the same code.
DTYPE = torch.bfloat16 if ON_GPU else torch.float16
EPS = 1e-6
fused, reference = FusedKernels(overlap_launch=ON_GPU and torch.cuda.get_device_capability() >= (9, 0)), TorchKernels()


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, DTYPE)


def close(ours: torch.Tensor, exact: torch.Tensor) -> bool:
    error = (ours.float() - exact.float()).norm() / exact.float().norm()
    return bool(error < 1e-2)


@pytest.mark.parametrize("shape", [(1, 64), (5, 96), (3, 1000), (2, 4, 128)])
def test_rms_norm(shape: tuple[int, ...]) -> None:
    x, weight = noise(*shape), noise(shape[-1], seed=1)
    kept = x.clone()
    assert close(fused.rms_norm(x, weight, EPS), reference.rms_norm(x.float(), weight.float(), EPS))
    assert torch.equal(x, kept)


@pytest.mark.parametrize("shape", [(1, 64), (5, 96), (3, 1000)])
def test_add_rms_norm(shape: tuple[int, int]) -> None:
    x, residual, weight = noise(*shape), noise(*shape, seed=1), noise(shape[-1], seed=2)
    expected = reference.add_rms_norm(x.float(), residual.float(), weight.float(), EPS)
    normed, total = fused.add_rms_norm(x, residual, weight, EPS)
    assert close(normed, expected[0])
    assert close(total, expected[1])


@pytest.mark.parametrize("shape", [(1, 8), (3, 2 * 96), (2, 2 * 1500)])
def test_silu_and_mul(shape: tuple[int, int]) -> None:
    x = noise(*shape)
    assert close(fused.silu_and_mul(x), reference.silu_and_mul(x.float()))


@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize(("heads", "kv_heads", "head_dim"), [(4, 2, 32), (5, 1, 16), (8, 8, 24)])
def test_rotate_and_store(normed: bool, heads: int, kv_heads: int, head_dim: int) -> None:
    tokens, slots = 6, torch.tensor([3, 11, 0, 7, 8, 2], device=DEVICE)
    qkv = noise(tokens, heads + 2 * kv_heads, head_dim)
    norms = HeadNorms(noise(head_dim, seed=1), noise(head_dim, seed=2), EPS) if normed else None
    angles = torch.rand(tokens, 1, head_dim // 2, generator=torch.Generator().manual_seed(3)) * 6
    cos, sin = angles.cos().to(DEVICE, DTYPE), angles.sin().to(DEVICE, DTYPE)
    keys, values = (noise(12, kv_heads, head_dim, seed=seed) for seed in (4, 5))
    exact_keys, exact_values = keys.float(), values.float()
    exact_norms = None if norms is None else HeadNorms(norms.q.float(), norms.k.float(), EPS)
    expected = reference.rotate_and_store(
        qkv.float(), exact_norms, cos.float(), sin.float(), exact_keys, exact_values, slots
    )
    q = fused.rotate_and_store(qkv, norms, cos, sin, keys, values, slots)
    assert close(q, expected)
    assert close(keys, exact_keys)
    assert torch.equal(values.float(), exact_values)  # untouched slots too
    elsewhere = [slot for slot in range(12) if slot not in slots.tolist()]
    assert torch.equal(keys[elsewhere].float(), exact_keys[elsewhere])

"""The fused mixture of experts is the reference's: on the GPU where there is one, else in Triton's interpreter."""

# ruff: noqa: E402 (what needs Triton is imported once it is known to be there)
from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from tests.tiny.interpreter import DEVICE, DTYPE, ON_GPU

# isort: split
from runtime.kernels import TorchKernels, Weight, fused_moe
from runtime.kernels.fp8 import quantize
from runtime.kernels.fused import FusedKernels
from runtime.kernels.fused_moe import TILINGS, grouped_product, sort_by_expert
from runtime.layers import parts
from tests.tiny.serving import MIXTURE, Server, prompts

FIELDS: dict[str, Any] = {**MIXTURE, "norm_topk_prob": True, "mlp_only_layers": [1]}

fused, reference = FusedKernels(overlap_launch=ON_GPU and torch.cuda.get_device_capability() >= (9, 0)), TorchKernels()


@pytest.fixture(autouse=True)
def rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's interpreter drops the carry where a number rounds up to a power of two in fp8: the GPU does not."""
    if not ON_GPU:
        monkeypatch.setattr(fused_moe, "quantize_rows", lambda x, overlap_launch: quantize(x))


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, DTYPE)


def error(ours: torch.Tensor, exact: torch.Tensor) -> float:
    return float((ours.float() - exact.float()).norm() / exact.float().norm())


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize(("experts", "chosen"), [(4, 2), (8, 8), (128, 8), (60, 4), (5, 1)])
def test_route(experts: int, chosen: int, normalise: bool) -> None:
    scores = noise(7, experts)
    ids, weights = fused.route(scores, chosen, normalise=normalise)
    expected_ids, expected = reference.route(scores.float(), chosen, normalise=normalise)
    assert torch.equal(weights.argsort(descending=True, stable=True).cpu(), torch.arange(chosen).expand(7, -1))
    assert torch.equal(scores.float().gather(1, ids.long()), scores.float().gather(1, expected_ids))  # ties aside
    assert torch.allclose(weights, expected, atol=1e-6)


def test_of_equally_likely_experts_the_first_are_chosen() -> None:
    ids, weights = fused.route(torch.zeros(2, 6, device=DEVICE, dtype=DTYPE), 4, normalise=True)
    assert ids.tolist() == [[0, 1, 2, 3]] * 2
    assert weights.tolist() == [[0.25] * 4] * 2


@pytest.mark.parametrize("rows", [16, 64])
@pytest.mark.parametrize(("tokens", "chosen", "count"), [(1, 1, 3), (1, 8, 24), (9, 2, 4), (700, 2, 5), (33, 3, 20)])
def test_sorted_assignments_stand_in_blocks_of_one_expert(rows: int, tokens: int, chosen: int, count: int) -> None:
    generator = torch.Generator().manual_seed(tokens)
    experts = torch.stack([torch.randperm(count, generator=generator)[:chosen] for _ in range(tokens)])
    experts[tokens // 2 + 1 :] = experts[0]  # some experts are crowded, others have none
    work = sort_by_expert(experts.int().to(DEVICE), count, rows, overlap_launch=False)
    used = int(work.used)
    blocks = work.order[: used * rows].view(used, rows).tolist()
    flat = experts.flatten().tolist()
    seen: list[int] = []
    for expert, block in zip(work.experts[:used].tolist(), blocks, strict=True):
        there = [assignment for assignment in block if assignment < len(flat)]
        assert there
        assert {flat[assignment] for assignment in there} == {expert}
        seen += there
    assert seen == sorted(range(len(flat)), key=lambda assignment: flat[assignment])  # all of them, in stable order


@pytest.mark.parametrize("tiling", [tiling for _, tiling in TILINGS], ids=str)
@pytest.mark.parametrize("fp8", [False, True], ids=["half", "fp8"])
def test_product_of_each_assignment_with_its_expert(tiling: tuple[int, ...], fp8: bool) -> None:
    tokens, count, inputs, outputs = 5, 3, 80, 136  # no multiple of a tile
    x, matrices = noise(tokens, inputs), noise(count, outputs, inputs, seed=1)
    experts = torch.tensor([[0, 2], [2, 0], [2, 1], [1, 2], [2, 0]], device=DEVICE, dtype=torch.int32)
    weight = Weight(*quantize(matrices)) if fp8 else Weight(matrices, None)
    work = sort_by_expert(experts, count, tiling.rows, overlap_launch=False)
    found = grouped_product(x, weight, work, 10, 2, tiling, overlap_launch=False)
    exact = weight if fp8 else Weight(matrices.float(), None)
    rows = x.float().repeat_interleave(2, 0)
    expected = [
        reference.linear(row, Weight(exact.values[expert], None if exact.scales is None else exact.scales[expert]))
        for row, expert in zip(rows, experts.flatten().tolist(), strict=True)
    ]
    assert error(found, torch.stack(expected)) < (1e-2 if ON_GPU else 1e-3)


@pytest.mark.parametrize(("tokens", "count", "chosen"), [(1, 8, 2), (3, 4, 4), (40, 4, 1), (9, 6, 3)])
@pytest.mark.parametrize("fp8", [False, True], ids=["half", "fp8"])
def test_experts_are_the_reference(tokens: int, count: int, chosen: int, fp8: bool) -> None:
    hidden, width = 48, 32
    x, scores = noise(tokens, hidden), noise(tokens, count, seed=1)
    matrices = [noise(count, 2 * width, hidden, seed=2) / 7, noise(count, hidden, width, seed=3) / 6]
    gate_up, down = (Weight(*quantize(matrix)) if fp8 else Weight(matrix, None) for matrix in matrices)
    ids, weights = fused.route(scores, chosen, normalise=True)
    exact = (Weight(w.values if fp8 else w.values.float(), w.scales) for w in (gate_up, down))
    expected = reference.experts(x.float(), ids.long(), weights, *exact)
    found = fused.experts(x, ids, weights, gate_up, down)
    assert error(found, expected) < (3e-2 if fp8 else 1e-2)  # between the products, few numbers round to the next
    assert torch.equal(found, fused.experts(x, ids, weights, gate_up, down))


@pytest.mark.skipif(ON_GPU, reason="the GPU engine has tests of its own")
def test_a_model_gives_the_reference_s_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = prompts(3, 9)
    outputs = []
    for kernels in (reference, FusedKernels(overlap_launch=False)):
        monkeypatch.setattr(parts, "kernels_for", lambda device_type, dtype, kernels=kernels: kernels)
        server = Server(FIELDS)
        outputs.append((server.all_logits(asked[1]), server.greedy(asked, 2)))
        server.close()
    assert (outputs[1][0] - outputs[0][0]).abs().max() < 1e-3
    assert outputs[0][1] == outputs[1][1]

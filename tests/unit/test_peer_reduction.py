"""Sums of few rows go through peer memory, of many they do not, and whichever way is taken the sum is the same."""

# ruff: noqa: E402 (what needs torch is imported once it is known to be there)
from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from harness.cost import roofline
from runtime.distributed import Communicator, SingleCommunicator
from runtime.distributed.connect import connect
from runtime.distributed.peer import LIMITS, Limits, PeerCommunicator, limits_for
from runtime.kernels import Kernels, TorchKernels
from tests.tiny.threads import on_ranks

Sum = tuple[torch.Tensor, torch.Tensor]


class Told(SingleCommunicator):
    """A group, and peer memory, that note what they are asked for."""

    size = 2

    def __init__(self) -> None:
        self.heard: list[str] = []

    def add_rms_norm(
        self, part: torch.Tensor, residual: torch.Tensor | None, weight: torch.Tensor, eps: float, kernels: Kernels
    ) -> Sum:
        self.heard.append("group")
        return part, part

    def one_shot(self, part: torch.Tensor, *rest: Any) -> Sum:
        self.heard.append("one_shot")
        return part, part

    def two_shot(self, part: torch.Tensor, *rest: Any) -> Sum:
        self.heard.append("two_shot")
        return part, part


@pytest.mark.parametrize(
    ("limits", "tokens", "ways"),
    [
        (Limits(64, 2048), (1, 64, 65, 2048, 2049), ["one_shot", "one_shot", "two_shot", "two_shot", "group"]),
        (Limits(2048, 0), (1, 2048, 2049), ["one_shot", "one_shot", "group"]),
    ],
)
def test_each_number_of_rows_takes_its_way(limits: Limits, tokens: tuple[int, ...], ways: list[str]) -> None:
    told = Told()
    communicator = PeerCommunicator(told, told, limits)
    for count in tokens:
        communicator.add_rms_norm(torch.empty(count, 8), None, torch.empty(8), 1e-6, TorchKernels())
    assert told.heard == ways
    assert (communicator.rank, communicator.size) == (0, 2)


@pytest.mark.parametrize("ranks", sorted(LIMITS))
def test_the_kernels_know_half_precision_in_whole_vectors_alone(ranks: int) -> None:
    assert limits_for(ranks, 5120, torch.bfloat16) == LIMITS[ranks]
    assert limits_for(ranks, 5120, torch.float32) is None
    assert limits_for(ranks, 5121, torch.bfloat16) is None
    assert limits_for(ranks + 1, 5120, torch.bfloat16) is None


def test_the_roofline_knows_where_they_end() -> None:
    assert {max(limits) for limits in LIMITS.values()} == {roofline._FUSED_SUM_ROWS}


@pytest.mark.parametrize("begins", [True, False])
def test_without_peer_memory_parts_are_summed_then_added_and_normalised(begins: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    parts, residual = torch.randn(3, 5, 16, generator=generator), torch.randn(5, 16, generator=generator)
    weight = torch.randn(16, generator=generator)

    def work(communicator: Communicator) -> Sum:
        before = None if begins else residual.clone()
        return communicator.add_rms_norm(parts[communicator.rank].clone(), before, weight, 1e-6, TorchKernels())

    total = parts.sum(0) if begins else residual + parts.sum(0)
    for normed, stream in on_ranks(3, work):
        assert torch.allclose(stream, total, atol=1e-6)
        assert torch.allclose(normed, torch.nn.functional.rms_norm(total, (16,), weight, 1e-6), atol=1e-5)


def test_one_rank_talks_to_nobody_and_a_wrong_way_is_named() -> None:
    cpu = torch.device("cpu")
    assert isinstance(connect(0, 1, "", cpu, width=8, dtype=torch.float32), SingleCommunicator)
    with pytest.raises(ValueError, match=r"engine.options.all_reduce=mpi: one of auto, nccl"):
        connect(0, 2, "", cpu, width=8, dtype=torch.float32, all_reduce="mpi")
